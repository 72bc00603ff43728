// The contract between Volt and a micro guest: ports, the exchange window, the note in the guest's
// ELF file, and the arithmetic both sides use to agree on memory content. Freestanding: the guest
// includes this very file.
//
// A micro guest runs in ring 3 only. The host places the vCPU at the entry named in the note; the
// guest initialises, rings READY, and from then on serves one request at a time:
//
//   host: writes `Request`, then its `seq` (one more than the last)        -> runs the vCPU
//   guest: sees seq != the last one it served, runs the function, writes `Response`, then its `seq`
//   guest: rings DONE (an exit), or KICK (an eventfd) where the request asked for it
//   guest without a request: spins for `spin_tsc` cycles, rings PARK, then looks again
//
// The window is memory of its own, outside guest RAM: it belongs to the host, is empty when a guest
// starts or is restored, and is never part of a snapshot. The host treats every word in it that the
// guest can write as hostile: it copies once, then checks the copy. The guest can write all of it;
// the split into host-written and guest-written lines keeps the two off each other's cache lines.
//
// After a restore the vCPU starts at the note's resume entry with an empty stack: the guest mixes
// the new entropy into its generator, re-anchors its clock, copies `generation` to
// `acknowledged_generation`, forgets the last seq, and only then looks for a request. A guest whose
// note has no resume entry is resumed exactly where it stopped, with its whole CPU state.
#pragma once

#include <cstddef>
#include <cstdint>

namespace volt::guest_abi {

inline constexpr std::uint32_t kVersion = 1;

// ---- Ports. 32-bit OUT. None of them means anything to another VMM.
inline constexpr std::uint16_t kPortReady = 0x560;     // initialised; waiting for requests
inline constexpr std::uint16_t kPortPark = 0x561;      // nothing to do
inline constexpr std::uint16_t kPortDone = 0x562;      // a response is in the window
inline constexpr std::uint16_t kPortHostCall = 0x563;  // `HostCall` is filled; wants a reply
inline constexpr std::uint16_t kPortPanic = 0x564;     // from ring 0: an exception; EAX = vector
inline constexpr std::uint16_t kPortExit = 0x565;      // the guest is finished; EAX = its code
inline constexpr std::uint16_t kPortKick = 0x568;      // doorbell that KVM turns into an eventfd

// ---- Guest-physical layout. Identity-mapped; RAM leaves a hole below 4 GiB, as on a PC.
inline constexpr std::uint64_t kLowRamEnd = 0xC000'0000;      // RAM below 4 GiB ends here ...
inline constexpr std::uint64_t kHighRamBase = 0x1'0000'0000;  // ... and goes on here
inline constexpr std::uint64_t kMaxRamBytes = std::uint64_t{16} << 30;  // what the tables map
inline constexpr std::uint64_t kWindowBase = 0xD000'0000;
inline constexpr std::uint64_t kWindowBytes = 0x20'0000;
inline constexpr std::uint64_t kPageBytes = 4096;

// ---- The note: ELF note, name "Volt", type kNoteType, exactly this struct as descriptor.
inline constexpr std::uint32_t kNoteType = 1;
inline constexpr char kNoteName[] = "Volt";

struct Note {
  std::uint32_t abi;           // kVersion
  std::uint32_t reserved;      // 0
  std::uint64_t entry;         // ring 3; RDI = window base, RSI = kBootedByVolt
  std::uint64_t resume_entry;  // ring 3; RDI = window base; 0: resume exactly where it stopped
  std::uint64_t stack_top;
  std::uint64_t cr3;
  std::uint64_t gdt_base;
  std::uint64_t idt_base;
  std::uint64_t tss_base;
  std::uint32_t gdt_limit;
  std::uint32_t idt_limit;
  std::uint32_t tss_limit;  // covers the I/O permission bitmap and its terminator
  std::uint32_t reserved2;  // 0
  std::uint64_t min_ram_bytes;
  // The only RAM outside the working set that serving requests may change: data, bss and stack.
  std::uint64_t mutable_base;
  std::uint64_t mutable_bytes;
};
static_assert(sizeof(Note) == 104);

inline constexpr std::uint64_t kBootedByVolt = 1;  // RSI at the note's entry
inline constexpr std::uint64_t kBootedByPvh =
    0;  // RSI when the PVH stub enters ring 3; RDI = start_info

// Selectors in the guest's GDT, as the host loads them.
inline constexpr std::uint16_t kUserCodeSelector = 0x2B;
inline constexpr std::uint16_t kUserDataSelector = 0x23;
inline constexpr std::uint16_t kTssSelector = 0x30;

// What lies at RSP when the guest rings PANIC: the stub's pushes over the CPU's exception frame, at
// the top of the IST1 stack. All registers but RAX and RDX still are the crashed code's; `error` is
// 0 for vectors that have none.
struct PanicFrame {
  std::uint64_t rdx, rax, vector, error, rip, cs, rflags, rsp, ss;
};
static_assert(sizeof(PanicFrame) == 72);

// EAX with EXIT.
enum class ExitCode : std::uint32_t {
  kBadBootConfig = 1,  // another abi, an unknown workload, or a working set that does not fit
};

// ---- Workloads and functions.
enum class Workload : std::uint32_t {
  kEcho = 1,  // no working set
  kKv = 2,    // records of 16 bytes {key, value} that fill the working set
};

enum class Function : std::uint32_t {
  kHealth = 1,    // ()                  -> HealthReply; reads the first page of the working set
  kEcho = 2,      // bytes               -> the same bytes
  kGet = 3,       // (n)                 -> value of record n
  kPut = 4,       // (n, value)          -> value that record n had
  kScan = 5,      // (first, count)      -> nothing more; reads those pages whole
  kTouch = 6,     // (page, page, ...)   -> nothing more; reads word 0 and adds 1 to word 1 of each
  kWrite = 7,     // (first, count, s)   -> nothing more; page p becomes page p of seed s
  kRandom = 8,    // (n <= 1024)         -> n bytes from the guest's own generator
  kNow = 9,       // ()                  -> wall ns, monotonic ns by the guest's own clock
  kAskHost = 10,  // (HostFunction, bytes for log) -> what the host answered
  kSpin = 11,     // ()                  -> never
  kCrash = 12,    // (CrashKind)         -> never
};

enum class CrashKind : std::uint64_t {
  kUndefined = 1,  // an undefined instruction
  kNull = 2,       // a read of address 0
  kDivide = 3,     // a division by zero
  kWriteCode = 4,  // a write to the guest's own code
  kRunData = 5,    // a jump into data
  kStack = 6,      // endless recursion
  kUnbacked = 7,   // a read of an address where no RAM is
};

// What the guest may ask of the host while it serves a request.
enum class HostFunction : std::uint32_t {
  kLog = 1,     // bytes -> nothing
  kNow = 2,     // ()    -> wall ns (8 bytes)
  kRandom = 3,  // ()    -> 32 bytes
};

enum class Status : std::uint32_t { kOk = 0, kUnknownFunction = 1, kBadArguments = 2 };

// ---- The exchange window.
struct alignas(64) BootConfig {  // host-written; read once by the entry
  std::uint32_t abi;
  Workload workload;
  std::uint64_t ram_bytes;
  std::uint64_t working_set_bytes;  // a multiple of the page size
  std::uint64_t seed;
};

struct alignas(64) Identity {   // host-written before the first instruction of a boot or a restore
  std::uint64_t generation[2];  // random, different for every VM that ever ran
  std::uint8_t entropy[32];
  std::uint64_t wall_ns;  // CLOCK_REALTIME when the host let the guest go
  std::uint64_t mono_ns;  // CLOCK_MONOTONIC then
  std::uint64_t tsc_hz;
};

struct alignas(64) Request {  // host-written
  std::uint32_t seq;          // written last; 0 = none yet
  Function function;
  std::uint32_t offset;  // of the arguments, from the window's start
  std::uint32_t bytes;
  std::uint32_t spin_tsc;   // how long to look for the next request before PARK
  std::uint32_t want_kick;  // 1: announce the response by KICK, not by DONE
};

struct alignas(64) HostReply {  // host-written
  std::uint32_t bytes;
  std::uint8_t data[60];
};

struct alignas(64) Response {  // guest-written
  std::uint32_t seq;           // written last
  Status status;
  std::uint32_t offset;  // of a ReplyHead and what follows it
  std::uint32_t bytes;
  std::uint64_t acknowledged_generation[2];
};

struct alignas(64) HostCall {  // guest-written
  HostFunction function;
  std::uint32_t offset;
  std::uint32_t bytes;
};

struct alignas(64) ReadyInfo {     // guest-written before READY
  std::uint64_t working_set_base;  // guest-physical; page n of it is at working_set_page(base, n)
  std::uint64_t working_set_bytes;
};

inline constexpr std::uint32_t kInlineBytes = 1024;

// The first page of the window. Small requests and responses live in it too, so that a call touches
// one page; larger ones use the areas behind it.
struct ControlPage {
  BootConfig boot;
  Identity identity;
  Request request;
  HostReply reply;
  Response response;
  HostCall call;
  ReadyInfo ready;
  alignas(1024) std::uint8_t inline_request[kInlineBytes];
  std::uint8_t inline_response[kInlineBytes];
  std::uint8_t inline_call[kInlineBytes];
};
static_assert(sizeof(ControlPage) == kPageBytes);
static_assert(offsetof(ControlPage, inline_request) == 1024);

inline constexpr std::uint32_t kRequestArea = 0x1'0000;  // [64 KiB, 1 MiB)
inline constexpr std::uint32_t kRequestAreaBytes = 0xF'0000;
inline constexpr std::uint32_t kResponseArea = 0x10'0000;  // [1 MiB, 2 MiB)
inline constexpr std::uint32_t kResponseAreaBytes = 0x10'0000;
inline constexpr std::uint32_t kMaxRandomBytes = 1024;

// Every response starts with this; the function's own data follows.
struct ReplyHead {
  std::uint64_t checksum;  // over what the function read: working-set words, or its arguments
  std::uint64_t words;     // how many 8-byte words that were
};

struct HealthReply {
  std::uint64_t generation[2];
  std::uint64_t working_set_bytes;
  std::uint64_t calls_served;  // since it booted, with this one; kept across capture and restore
  std::uint64_t random;        // from the guest's generator
  Workload workload;
  std::uint32_t reserved;
};

// ---- Memory content both sides can compute.

// Word `index` of a working set made from `seed` (splitmix64 of a counter).
constexpr std::uint64_t seeded_word(std::uint64_t seed, std::uint64_t index) {
  std::uint64_t z = seed + (index + 1) * 0x9E37'79B9'7F4A'7C15;
  z = (z ^ (z >> 30)) * 0xBF58'476D'1CE4'E5B9;
  z = (z ^ (z >> 27)) * 0x94D0'49BB'1331'11EB;
  return z ^ (z >> 31);
}

// Order-dependent sum of 64-bit words in four lanes. Each step is a bijection of its lane, so a
// change of any single word always changes the result.
class Checksum {
 public:
  constexpr void add(std::uint64_t word) {
    std::uint64_t& lane = lanes_[count_++ & 3];
    lane = (lane ^ word) * 0x9FB2'1C65'1E98'DF25;
  }

  // The same as adding the words one by one; `count` and what was added before are multiples of 4.
  constexpr void add_block(const std::uint64_t* words, std::uint64_t count) {
    std::uint64_t a = lanes_[0], b = lanes_[1], c = lanes_[2], d = lanes_[3];
    for (std::uint64_t i = 0; i < count; i += 4) {
      a = (a ^ words[i]) * 0x9FB2'1C65'1E98'DF25;
      b = (b ^ words[i + 1]) * 0x9FB2'1C65'1E98'DF25;
      c = (c ^ words[i + 2]) * 0x9FB2'1C65'1E98'DF25;
      d = (d ^ words[i + 3]) * 0x9FB2'1C65'1E98'DF25;
    }
    lanes_[0] = a, lanes_[1] = b, lanes_[2] = c, lanes_[3] = d;
    count_ += count;
  }

  constexpr std::uint64_t words() const { return count_; }

  constexpr std::uint64_t value() const {
    std::uint64_t sum = count_;
    for (const std::uint64_t lane : lanes_) sum = seeded_word(sum ^ lane, 0);
    return sum;
  }

 private:
  std::uint64_t lanes_[4] = {0x243F'6A88'85A3'08D3, 0x1319'8A2E'0370'7344, 0xA409'3822'299F'31D0,
                             0x082E'FA98'EC4E'6C89};
  std::uint64_t count_ = 0;
};

// Where page n of a working set at `base` is: RAM skips from kLowRamEnd to kHighRamBase.
constexpr std::uint64_t working_set_page(std::uint64_t base, std::uint64_t n) {
  const std::uint64_t address = base + n * kPageBytes;
  return address < kLowRamEnd ? address : address - kLowRamEnd + kHighRamBase;
}

}  // namespace volt::guest_abi
