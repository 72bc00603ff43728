// The few words of AML, ACPI's byte code, that the description of a small machine needs. Each
// function gives the bytes of one object; bodies are made by putting objects one after the other.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

namespace volt::pc::aml {

using Bytes = std::string;

// ---- Data
Bytes integer(std::uint64_t value);
Bytes text(std::string_view value);
Bytes eisa_id(std::string_view id);  // "PNP0501"
Bytes buffer(std::string_view bytes);
Bytes package(std::initializer_list<Bytes> elements);

// ---- Names. A path is "NAME", "\\_SB" or "\\_SB.NAME"; segments are padded with '_'.
Bytes path(std::string_view name);
Bytes name(std::string_view name, const Bytes& value);
Bytes scope(std::string_view name, const Bytes& body);
Bytes device(std::string_view name, const Bytes& body);
Bytes method(std::string_view name, unsigned arguments, const Bytes& body);

// ---- A byte-wide field of one I/O port.
Bytes port_field(std::string_view region, std::uint16_t port, std::string_view field);

// ---- Statements
Bytes if_bit(std::string_view value, unsigned bit, const Bytes& body);
Bytes store(const Bytes& value, const Bytes& target);
Bytes notify(std::string_view object, std::uint8_t value);
Bytes local0();

// ---- Resources, for _CRS
Bytes resources(std::initializer_list<Bytes> descriptors);
Bytes memory32(std::uint32_t base, std::uint32_t bytes);
Bytes interrupt(std::uint32_t number);  // edge, active high, its own
Bytes ports(std::uint16_t base, std::uint8_t count);

}  // namespace volt::pc::aml
