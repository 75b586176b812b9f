#include "tests/emulator.h"

#include <ucontext.h>

#include <algorithm>
#include <array>
#include <memory>
#include <sstream>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace dgdd::emulator {
namespace {

constexpr size_t kStackBytes = 128 * 1024;
constexpr size_t kWord = 4;
constexpr size_t kStaticBytes = 48 * 1024;  // all that CUDA allows
constexpr size_t kMostTold = 8;

std::string text_of(Site site) {
  const std::string file = site.file_name();
  std::ostringstream text;
  text << file.substr(file.rfind('/') + 1) << ":" << site.line() << ":" << site.column();
  return text.str();
}

// -------- threads

enum class State { ready, block_barrier, warp_operation, done };

// An access of one word: by whom, in which block epoch, and at which reading of the thread's own clock.
struct Event {
  int thread = -1;
  int64_t epoch = 0;
  uint32_t clock = 0;
  bool atomic = false;
  Site site;
};

struct LoggedAccess {
  uint32_t first_byte;
  uint32_t bytes;
  Site site;
};

struct Thread {
  ucontext_t context{};
  std::unique_ptr<char[]> stack;
  void* sanitizer_stack = nullptr;
  int number = 0;
  State state = State::ready;
  Site waits_at;

  int64_t block_barriers = 0;
  int64_t warp_barriers = 0;
  int predicate = 0;
  int vote_result = 0;

  const char* operation = "";  // of the warp: what is waited for, with whom, and what is given
  unsigned mask = 0;
  uint64_t value = 0;
  std::array<uint64_t, warpSize> received;

  // What this thread knows of the lanes of its warp: their accesses up to these clocks are ordered before its
  // next one.
  std::array<uint32_t, warpSize> clocks;
  std::vector<LoggedAccess> log;

  int warp() const { return number / warpSize; }
  int lane() const { return number % warpSize; }
};

struct Word {
  bool written = false;
  Event last_write;
  std::vector<Event> reads;  // since then, of the present epoch
};

class Machine {
 public:
  Report run(dim3 grid, dim3 block, size_t dynamic_bytes, const std::function<void()>& kernel,
             const Options& options);

  // Of the running thread.
  void* access(size_t first_byte, size_t bytes, int64_t index, int64_t count, Access access, Site site);
  size_t static_memory(const void* owner, size_t bytes);
  size_t dynamic_bytes() const { return dynamic_bytes_; }
  int block_barrier(Vote vote, int predicate, Site site);
  void warp_barrier(unsigned mask, Site site);
  const uint64_t* exchange(const char* operation, unsigned mask, uint64_t value, int source, Site site);
  int lane() const { return running_->lane(); }

 private:
  static void fibre();
  void prepare_block(int threads);
  bool run_block();  // false: given up
  void resume(Thread& thread);
  void pause();
  void wait(State state, Site site);
  bool release_block_barrier();
  bool release_warp(int warp);
  void check_word(Word& word, Access access, Site site);
  bool ordered(const Event& before, const Thread& after) const;
  void count_wavefronts();
  void count_access(const std::vector<std::pair<int, uint32_t>>& lanes, size_t bytes, Site site);
  void tell(int64_t& kind, const std::string& what);
  std::string name(int thread) const;
  std::string standstill() const;

  const std::function<void()>* kernel_ = nullptr;
  Options options_;
  Report report_;
  std::vector<std::unique_ptr<Thread>> threads_;
  Thread* running_ = nullptr;
  ucontext_t scheduler_{};
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_stack_bytes_ = 0;
  Vote vote_ = Vote::none;
  int64_t epoch_ = 0;

  size_t dynamic_bytes_ = 0;
  std::vector<unsigned char> memory_;  // dynamic, then static
  std::vector<Word> words_;
  std::map<const void*, size_t> static_memory_;
  size_t static_end_ = 0;
};

Machine* machine = nullptr;

void Machine::fibre() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &machine->scheduler_stack_, &machine->scheduler_stack_bytes_);
#endif
  for (;;) {  // a block each time
    (*machine->kernel_)();
    machine->running_->state = State::done;
    machine->pause();
  }
}

void Machine::resume(Thread& thread) {
  running_ = &thread;
  const unsigned number = static_cast<unsigned>(thread.number);
  threadIdx = {number % blockDim.x, number / blockDim.x % blockDim.y, number / (blockDim.x * blockDim.y)};
#if defined(__SANITIZE_ADDRESS__)
  void* own = nullptr;
  __sanitizer_start_switch_fiber(&own, thread.stack.get(), kStackBytes);
#endif
  swapcontext(&scheduler_, &thread.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(own, nullptr, nullptr);
#endif
  running_ = nullptr;
}

void Machine::pause() {
  Thread& thread = *running_;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&thread.sanitizer_stack, scheduler_stack_, scheduler_stack_bytes_);
#endif
  swapcontext(&thread.context, &scheduler_);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(thread.sanitizer_stack, &scheduler_stack_, &scheduler_stack_bytes_);
#endif
}

void Machine::wait(State state, Site site) {
  running_->state = state;
  running_->waits_at = site;
  pause();
}

void Machine::prepare_block(int threads) {
  while (static_cast<int>(threads_.size()) < threads) {
    auto thread = std::make_unique<Thread>();
    thread->number = static_cast<int>(threads_.size());
    thread->stack.reset(new char[kStackBytes]);
    getcontext(&thread->context);
    thread->context.uc_stack.ss_sp = thread->stack.get();
    thread->context.uc_stack.ss_size = kStackBytes;
    thread->context.uc_link = nullptr;
    makecontext(&thread->context, &Machine::fibre, 0);
    threads_.push_back(std::move(thread));
  }
  for (auto& thread : threads_) {
    thread->state = State::ready;
    thread->block_barriers = thread->warp_barriers = 0;
    thread->clocks.fill(0);
    thread->clocks[static_cast<size_t>(thread->lane())] = 1;
    thread->log.clear();
  }
  epoch_ = 0;
  static_memory_.clear();
  static_end_ = dynamic_bytes_;
  std::fill(memory_.begin(), memory_.end(), static_cast<unsigned char>(0xaa));
  for (Word& word : words_) {
    word.written = false;
    word.last_write.thread = -1;
    word.reads.clear();
  }
}

Report Machine::run(dim3 grid, dim3 block, size_t dynamic_bytes, const std::function<void()>& kernel,
                    const Options& options) {
  kernel_ = &kernel;
  options_ = options;
  gridDim = grid;
  blockDim = block;
  dynamic_bytes_ = dynamic_bytes;
  memory_.resize((dynamic_bytes_ + 127) / 128 * 128 + kStaticBytes);
  words_.resize(memory_.size() / kWord);
  machine = this;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        prepare_block(static_cast<int>(block.x * block.y * block.z));
        if (!run_block()) return report_;
      }
  return report_;
}

bool Machine::run_block() {
  const int warps = (static_cast<int>(threads_.size()) + warpSize - 1) / warpSize;
  for (;;) {
    bool progress = false;
    for (auto& thread : threads_) {
      if (thread->state != State::ready) continue;
      progress = true;
      resume(*thread);
    }
    for (int warp = 0; warp < warps; ++warp) progress |= release_warp(warp);
    if (progress) continue;
    if (std::all_of(threads_.begin(), threads_.end(),
                    [](auto& thread) { return thread->state == State::done; }))
      break;
    if (!release_block_barrier()) return false;
  }
  count_wavefronts();
  for (auto& thread : threads_) {
    report_.block_barriers = std::max(report_.block_barriers, thread->block_barriers);
    report_.warp_barriers = std::max(report_.warp_barriers, thread->warp_barriers);
  }
  return true;
}

// -------- barriers and warp operations

int Machine::block_barrier(Vote vote, int predicate, Site site) {
  if (vote == Vote::none) ++running_->block_barriers;
  running_->predicate = predicate;
  vote_ = vote;
  wait(State::block_barrier, site);
  return running_->vote_result;
}

// Called when no thread can go on.
bool Machine::release_block_barrier() {
  const Site site = threads_.front()->waits_at;
  int count = 0;
  for (auto& thread : threads_) {
    if (thread->state != State::block_barrier || thread->waits_at.line() != site.line() ||
        thread->waits_at.column() != site.column()) {
      tell(report_.divergences, "not all threads of the block reach one barrier: " + standstill());
      return false;
    }
    count += thread->predicate != 0;
  }
  const int threads = static_cast<int>(threads_.size());
  for (auto& thread : threads_) {
    thread->vote_result = vote_ == Vote::any ? count > 0 : vote_ == Vote::all ? count == threads : count;
    thread->state = State::ready;
  }
  const bool removed =
      vote_ == Vote::none && threads_.front()->block_barriers == options_.removed_block_barrier + 1;
  if (!removed) ++epoch_;
  count_wavefronts();
  return true;
}

void Machine::warp_barrier(unsigned mask, Site site) {
  ++running_->warp_barriers;
  exchange("__syncwarp", mask, 0, lane(), site);
}

const uint64_t* Machine::exchange(const char* operation, unsigned mask, uint64_t value, int source,
                                  Site site) {
  Thread& thread = *running_;
  const auto place = [&] { return std::string(operation) + " at " + text_of(site) + ": "; };
  if ((mask >> thread.lane() & 1u) == 0)
    tell(report_.divergences, place() + name(thread.number) + " is not in its own mask");
  thread.operation = operation;
  thread.mask = mask;
  thread.value = value;
  wait(State::warp_operation, site);
  const bool exists = thread.warp() * warpSize + source < static_cast<int>(threads_.size());
  if ((mask >> source & 1u) == 0 || !exists)
    tell(report_.divergences,
         place() + name(thread.number) + " reads lane " + std::to_string(source) + ", which takes no part");
  return thread.received.data();
}

// Lets those lanes go on whose whole mask has arrived at the same operation.
bool Machine::release_warp(int warp) {
  const int first = warp * warpSize;
  const int lanes = std::min(warpSize, static_cast<int>(threads_.size()) - first);
  const auto lane_at = [&](int lane) -> Thread& { return *threads_[static_cast<size_t>(first + lane)]; };
  bool progress = false;
  for (int leader = 0; leader < lanes; ++leader) {
    if (lane_at(leader).state != State::warp_operation) continue;
    const unsigned mask = lane_at(leader).mask;
    const char* operation = lane_at(leader).operation;
    bool complete = true;
    for (int lane = 0; lane < lanes; ++lane) {
      if ((mask >> lane & 1u) == 0) continue;
      const Thread& other = lane_at(lane);
      complete &= other.state == State::warp_operation && other.mask == mask &&
                  std::strcmp(other.operation, operation) == 0;
    }
    if (!complete || (mask >> leader & 1u) == 0) continue;
    progress = true;
    const bool orders = std::strcmp(operation, "__syncwarp") == 0 &&
                        lane_at(leader).warp_barriers != options_.removed_warp_barrier + 1;
    std::array<uint64_t, warpSize> values{};
    std::array<uint32_t, warpSize> clocks{};
    for (int lane = 0; lane < lanes; ++lane) {
      if ((mask >> lane & 1u) == 0) continue;
      values[static_cast<size_t>(lane)] = lane_at(lane).value;
      for (size_t of = 0; of < clocks.size(); ++of)
        clocks[of] = std::max(clocks[of], lane_at(lane).clocks[of]);
    }
    for (int lane = 0; lane < lanes; ++lane) {
      if ((mask >> lane & 1u) == 0) continue;
      Thread& thread = lane_at(lane);
      thread.received = values;
      thread.state = State::ready;
      if (!orders) continue;
      thread.clocks = clocks;
      ++thread.clocks[static_cast<size_t>(lane)];
    }
  }
  return progress;
}

std::string Machine::standstill() const {
  std::ostringstream text;
  size_t begin = 0;
  while (begin < threads_.size()) {  // runs of threads that wait alike
    size_t end = begin + 1;
    const Thread& thread = *threads_[begin];
    while (end < threads_.size() && threads_[end]->state == thread.state &&
           (thread.state == State::done || (threads_[end]->waits_at.line() == thread.waits_at.line() &&
                                            threads_[end]->waits_at.column() == thread.waits_at.column())))
      ++end;
    text << (begin == 0 ? "" : ", ") << "threads " << begin << " to " << end - 1
         << (thread.state == State::done            ? " are done"
             : thread.state == State::block_barrier ? " wait for the block at "
                                                    : " wait for their warp at ")
         << (thread.state == State::done ? "" : text_of(thread.waits_at));
    begin = end;
  }
  return text.str();
}

// -------- shared memory

size_t Machine::static_memory(const void* owner, size_t bytes) {
  const auto [at, is_new] = static_memory_.try_emplace(owner, (static_end_ + 127) / 128 * 128);
  if (is_new) static_end_ = at->second + bytes;
  if (static_end_ > memory_.size()) tell(report_.out_of_bounds, "more static shared memory than CUDA allows");
  return at->second;
}

void* Machine::access(size_t first_byte, size_t bytes, int64_t index, int64_t count, Access access,
                      Site site) {
  if (index < 0 || index >= count || first_byte + bytes > memory_.size()) {
    tell(report_.out_of_bounds, name(running_->number) + " accesses element " + std::to_string(index) +
                                    " of " + std::to_string(count) + " at " + text_of(site));
    return nullptr;
  }
  if (first_byte % bytes != 0) {
    tell(report_.out_of_bounds, name(running_->number) + ": misaligned access at " + text_of(site));
    return nullptr;
  }
  for (size_t word = first_byte / kWord; word < (first_byte + bytes) / kWord; ++word)
    check_word(words_[word], access, site);
  running_->log.push_back({static_cast<uint32_t>(first_byte), static_cast<uint32_t>(bytes), site});
  return memory_.data() + first_byte;
}

bool Machine::ordered(const Event& before, const Thread& after) const {
  if (before.thread == after.number || before.epoch < epoch_) return true;
  return before.thread / warpSize == after.warp() &&
         after.clocks[static_cast<size_t>(before.thread % warpSize)] >= before.clock;
}

void Machine::check_word(Word& word, Access access, Site site) {
  const Thread& thread = *running_;
  const auto race = [&](const Event& other, const char* kinds) {
    tell(report_.races, std::string(kinds) + " by " + name(thread.number) + " at " + text_of(site) +
                            " and by " + name(other.thread) + " at " + text_of(other.site) +
                            " with no barrier between");
  };
  const Event event = {thread.number, epoch_, thread.clocks[static_cast<size_t>(thread.lane())],
                       access == Access::atomic, site};
  if (access != Access::write && !word.written)
    tell(report_.uninitialised, name(thread.number) + " reads what nobody wrote at " + text_of(site));
  const bool both_atomic = access == Access::atomic && word.last_write.atomic;
  if (word.last_write.thread >= 0 && !both_atomic && !ordered(word.last_write, thread))
    race(word.last_write, access == Access::read ? "read and write" : "write and write");
  if (!word.reads.empty() && word.reads.front().epoch != epoch_) word.reads.clear();
  if (access == Access::read) {
    if (word.reads.empty() || word.reads.back().thread != thread.number ||
        word.reads.back().clock != event.clock)
      word.reads.push_back(event);
    return;
  }
  for (const Event& read : word.reads)
    if (!ordered(read, thread)) {
      race(read, "write and read");
      break;
    }
  word.reads.clear();
  word.last_write = event;
  word.written = true;
}

// -------- bank conflicts

// Matches the lanes' accesses since the last block barrier: usually all lanes of a warp went the same way.
void Machine::count_wavefronts() {
  const auto same = [](const Site& a, const Site& b) {
    return a.line() == b.line() && a.column() == b.column();
  };
  for (size_t first = 0; first < threads_.size(); first += warpSize) {
    const size_t lanes = std::min<size_t>(warpSize, threads_.size() - first);
    const std::vector<LoggedAccess>& leader = threads_[first]->log;
    bool alike = true;
    for (size_t lane = 1; alike && lane < lanes; ++lane) {
      const std::vector<LoggedAccess>& log = threads_[first + lane]->log;
      alike = log.size() == leader.size();
      for (size_t i = 0; alike && i < log.size(); ++i) alike = same(log[i].site, leader[i].site);
    }
    std::vector<std::pair<int, uint32_t>> together;
    if (alike) {
      for (size_t i = 0; i < leader.size(); ++i) {
        together.clear();
        for (size_t lane = 0; lane < lanes; ++lane)
          together.emplace_back(static_cast<int>(lane), threads_[first + lane]->log[i].first_byte);
        count_access(together, leader[i].bytes, leader[i].site);
      }
    } else {
      std::map<std::array<uint64_t, 3>, std::vector<std::pair<int, const LoggedAccess*>>> by_execution;
      for (size_t lane = 0; lane < lanes; ++lane) {
        std::map<std::pair<uint64_t, uint64_t>, uint64_t> executions;
        for (const LoggedAccess& access : threads_[first + lane]->log) {
          const uint64_t line = access.site.line(), column = access.site.column();
          by_execution[{line, column, executions[{line, column}]++}].emplace_back(static_cast<int>(lane),
                                                                                  &access);
        }
      }
      for (const auto& [execution, accesses] : by_execution) {
        together.clear();
        for (const auto& [lane, access] : accesses) together.emplace_back(lane, access->first_byte);
        count_access(together, accesses.front().second->bytes, accesses.front().second->site);
      }
    }
    for (size_t lane = 0; lane < lanes; ++lane) threads_[first + lane]->log.clear();
  }
}

void Machine::count_access(const std::vector<std::pair<int, uint32_t>>& lanes, size_t bytes, Site site) {
  const int slots = static_cast<int>(128 / bytes);  // lanes served at a time, and places that serve them
  std::array<std::array<uint32_t, warpSize>, warpSize> units;  // by slot
  int64_t wavefronts = 0, least = 0;
  for (int group = 0; group < warpSize; group += slots) {
    std::array<int, warpSize> counts{};
    int most = 0;
    for (const auto& [lane, first_byte] : lanes) {
      if (lane < group || lane >= group + slots) continue;
      const uint32_t unit = first_byte / static_cast<uint32_t>(bytes);
      const size_t slot = unit % static_cast<uint32_t>(slots);
      const auto begin = units[slot].begin(), end = begin + counts[slot];
      if (std::find(begin, end, unit) == end) *end = unit, ++counts[slot];
      most = std::max(most, counts[slot]);
    }
    wavefronts += most;
    least += most > 0;
  }
  ++report_.shared_accesses;
  report_.wavefronts += wavefronts;
  if (wavefronts == least) return;
  report_.bank_conflicts += wavefronts - least;
  report_.conflicts_at[text_of(site)] += wavefronts - least;
}

void Machine::tell(int64_t& kind, const std::string& what) {
  ++kind;
  if (report_.told.size() < kMostTold) report_.told.push_back(what);
}

std::string Machine::name(int thread) const {
  return "thread " + std::to_string(thread) + " of block (" + std::to_string(blockIdx.x) + ", " +
         std::to_string(blockIdx.y) + ", " + std::to_string(blockIdx.z) + ")";
}

}  // namespace

std::string Report::text() const {
  std::ostringstream text;
  text << races << " races, " << out_of_bounds << " out of bounds, " << uninitialised << " uninitialised, "
       << divergences << " divergences, " << bank_conflicts << " bank conflicts in " << wavefronts
       << " wavefronts";
  for (const std::string& line : told) text << "\n  " << line;
  for (const auto& [site, conflicts] : conflicts_at) text << "\n  " << conflicts << " conflicts at " << site;
  return text.str();
}

Report launch(dim3 grid, dim3 block, size_t dynamic_shared_bytes, const std::function<void()>& kernel,
              const Options& options) {
  return Machine().run(grid, block, dynamic_shared_bytes, kernel, options);
}

void* shared_access(size_t first_byte, size_t bytes, int64_t index, int64_t count, Access access, Site site) {
  return machine->access(first_byte, bytes, index, count, access, site);
}
size_t static_shared(const void* owner, size_t bytes) { return machine->static_memory(owner, bytes); }
size_t dynamic_shared_size() { return machine->dynamic_bytes(); }
int block_barrier(Vote vote, int predicate, Site site) {
  return machine->block_barrier(vote, predicate, site);
}
void warp_barrier(unsigned mask, Site site) { machine->warp_barrier(mask, site); }
const uint64_t* warp_exchange(const char* operation, unsigned mask, uint64_t value, int source, Site site) {
  return machine->exchange(operation, mask, value, source, site);
}
int lane() { return machine->lane(); }

unsigned ballot(const char* operation, unsigned mask, int predicate, Site site) {
  const uint64_t* values = warp_exchange(operation, mask, predicate != 0, lane(), site);
  unsigned bits = 0;
  for (int lane = 0; lane < warpSize; ++lane) bits |= static_cast<unsigned>(values[lane] & 1u) << lane;
  return bits & mask;
}

}  // namespace dgdd::emulator
