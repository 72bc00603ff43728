#include "tools/kernel_store.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace volt::tools {
namespace {

// A data directory of its own.
class KernelStoreTest : public testing::Test {
 protected:
  KernelStoreTest() {
    std::string path = testing::TempDir() + "volt-kernels-XXXXXX";
    data_ = ::mkdtemp(path.data());
    ::setenv("VOLT_DATA_DIR", data_.c_str(), 1);
  }
  ~KernelStoreTest() override {
    ::unsetenv("VOLT_DATA_DIR");
    std::filesystem::remove_all(data_);
  }

  void add(const std::string& name, const std::string& version) {
    NewKernel kernel = {
        .name = name, .source = "here", .version = version, .file = {}, .modules = {}};
    for (const char* module : {"virtio", "overlay"}) kernel.modules.push_back({module, {}});
    ASSERT_TRUE(KernelStore::open()->add(kernel));
  }

  std::string data_;
};

TEST_F(KernelStoreTest, AWordIsAName) {
  add("a", "6.1");
  add("b", "6.2");
  const Result<Kernel> kernel = find_kernel("a");
  ASSERT_TRUE(kernel) << kernel.error().context;
  EXPECT_EQ(kernel->version, "6.1");
  EXPECT_EQ(kernel->path, data_ + "/kernels/a/kernel");
  ASSERT_EQ(kernel->modules.size(), 2u);
  EXPECT_EQ(kernel->modules[0], data_ + "/kernels/a/modules/000-virtio.ko");
  EXPECT_EQ(kernel->modules[1], data_ + "/kernels/a/modules/001-overlay.ko");
  EXPECT_EQ(find_kernel("c").error().code, Code::kNotFound);
  EXPECT_NE(find_kernel("c").error().context.find("a, b"), std::string::npos);
  EXPECT_EQ(find_kernel("..").error().code, Code::kInvalid);
}

TEST_F(KernelStoreTest, NoWordIsTheOneAddedLast) {
  EXPECT_EQ(find_kernel("").error().code, Code::kNotFound);
  add("b", "6.2");
  add("a", "6.1");
  EXPECT_EQ(find_kernel("")->name, "a");
}

TEST_F(KernelStoreTest, AWordWithASlashIsAFile) {
  const std::string path = data_ + "/vmlinuz";
  EXPECT_EQ(find_kernel(path).error().code, Code::kNotFound);
  std::ofstream(path) << "x";
  const Result<Kernel> kernel = find_kernel(path);
  ASSERT_TRUE(kernel) << kernel.error().context;
  EXPECT_EQ(kernel->path, path);
  EXPECT_TRUE(kernel->modules.empty());
}

}  // namespace
}  // namespace volt::tools
