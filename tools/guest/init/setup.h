// What the first process of a guest does before anything else: a root with the usual file systems,
// a name, a network of its own, and the modules it was given.
#pragma once

namespace volt::init {

// Each says on the console what it could not do, and goes on: a guest with a part missing can still
// be looked into.
void mount_all();
void set_hostname();  // volt.hostname= of the kernel's command line, else /etc/hostname
void raise_loopback();
void load_modules();  // /volt/modules/*.ko, in order of their names

}  // namespace volt::init
