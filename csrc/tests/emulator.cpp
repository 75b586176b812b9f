#include "tests/emulator.h"

#include <algorithm>
#include <array>
#include <memory>
#include <sstream>
#include <utility>

#include "tests/context.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace dgdd::emulator {
namespace {

constexpr size_t kStackBytes = 128 * 1024;
constexpr size_t kWord = 4;
constexpr size_t kStaticBytes = 48 * 1024;  // all that CUDA allows
constexpr size_t kMostTold = 8;
constexpr unsigned char kUnwritten = 0xaa;

std::string text_of(Site site) {
  const std::string file = site.file_name();
  std::ostringstream text;
  text << file.substr(file.rfind('/') + 1) << ":" << site.line() << ":" << site.column();
  return text.str();
}

// -------- threads

enum class State { ready, block_barrier, warp_operation, copy_barrier, cluster_barrier, done };

// The clocks of all threads of a cluster, and after them the phases of its mbarriers: what comes before.
using Knowledge = std::shared_ptr<const std::vector<uint32_t>>;

uint32_t known(const Knowledge& knowledge, int of) {
  return knowledge != nullptr && static_cast<size_t>(of) < knowledge->size()
             ? (*knowledge)[static_cast<size_t>(of)]
             : 0;
}

// An access of one word: by which thread of the cluster, or mbarrier, and at which reading of its clock.
struct Event {
  int thread = -1;
  uint32_t clock = 0;
  bool atomic = false;
  Site site;
};

struct LoggedAccess {
  uint32_t first_byte;
  uint32_t bytes;
  Site site;
};

struct Block;

struct Thread {
  Context context;
  std::unique_ptr<char[]> stack;
  void* sanitizer_stack = nullptr;
  Block* block = nullptr;
  int number = 0;      // in its block
  int in_cluster = 0;  // in its cluster
  State state = State::ready;
  Site waits_at;

  int64_t block_barriers = 0;
  int64_t warp_barriers = 0;
  int64_t cluster_barriers = 0;
  int64_t waits = 0;
  int64_t expectations = 0;
  int64_t fences = 0;
  int predicate = 0;
  int vote_result = 0;

  const char* operation = "";  // of the warp: what is waited for, with whom, and what is given
  unsigned mask = 0;
  uint64_t value = 0;
  std::array<uint64_t, warpSize> received;

  int barrier = 0;  // that it waits for, until the phase of this parity is over
  int parity = 0;
  uint32_t phase = 0;        // what came after it
  bool has_arrived = false;  // at the cluster's barrier
  std::vector<int> copies;   // its own that it has not waited for
  int64_t copy_group = 0;

  // What this thread knows: accesses up to these clocks are ordered before its next one. Its warp's lanes,
  // what the last barrier of the block or cluster told everybody, and what it has learnt since from
  // mbarriers.
  std::array<uint32_t, warpSize> clocks;
  Knowledge base;
  Knowledge learnt;
  int learnt_from = -1;  // the mbarrier, if only one
  uint32_t fenced = 0;   // the copy engine sees what it wrote up to this clock
  std::vector<LoggedAccess> log;

  int warp() const { return number / warpSize; }
  int lane() const { return number % warpSize; }
  uint32_t& clock() { return clocks[static_cast<size_t>(lane())]; }
  uint32_t clock() const { return clocks[static_cast<size_t>(lane())]; }
};

struct Word {
  int64_t life = 0;  // of the block whose word this is
  bool written = false;
  int copy = -1;     // that is on its way here
  int barrier = -1;  // that lies here
  Event last_write;
  std::vector<Event> reads;  // since then, as far as the block's last barrier does not cover them
  int64_t epoch = 0;         // of the block when that was last seen to
};

struct Block {
  uint3 index{};
  int rank = 0;
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<unsigned char> memory;  // dynamic, then as much static as there is
  std::vector<Word> words;
  int64_t life = 0;  // counts the blocks that had this memory
  std::map<const void*, size_t> static_memory;
  size_t static_end = 0;
  size_t static_bytes = 0;
  Vote vote = Vote::none;
  Knowledge base;     // what all its threads know
  int64_t epoch = 0;  // counts the barriers that told them
  bool is_done = false;
  std::map<int, Event> visits;  // the last access to its memory by each thread of another block

  void resize(size_t bytes) {
    memory.resize(bytes, kUnwritten);
    words.resize((bytes + kWord - 1) / kWord);
  }
  // A launch touches few words of what it could: each is made new when it is first asked for.
  Word& word(size_t number) {
    Word& found = words[number];
    if (found.life != life) {
      found.life = life;
      found.written = false;
      found.copy = found.barrier = -1;
      found.last_write.thread = -1;
      found.reads.clear();
      found.epoch = 0;
    }
    return found;
  }
};

struct Barrier {
  Block* block = nullptr;
  size_t at = 0;
  int arrivals = 0;  // of each phase
  int arrivals_left = 0;
  int64_t bytes_left = 0;
  uint32_t phase = 0;
  Event init;
  std::vector<Event> waits;  // for the phase before, that are through
  Knowledge of_arrivals;     // in this phase
  Knowledge of_phases;       // that are over
  Site site;
  Site last_arrival;
};

struct Copy {
  Block* block;
  size_t first_byte;
  const unsigned char* source;
  std::vector<unsigned char> bytes;  // the source as it was
  int barrier;                       // -1: of a thread
  int64_t group;
  int thread;
  Site site;
  bool arrived = false;
};

class Machine {
 public:
  Report run(dim3 grid, dim3 block, size_t dynamic_bytes, const std::function<void()>& kernel,
             const Options& options);

  // Of the running thread.
  void* access(Span span, int64_t index, size_t bytes, Access access, Site site);
  size_t static_memory(const void* owner, size_t bytes);
  size_t dynamic_bytes() const { return dynamic_bytes_; }
  int block_barrier(Vote vote, int predicate, Site site);
  void warp_barrier(unsigned mask, Site site);
  const uint64_t* exchange(const char* operation, unsigned mask, uint64_t value, int source, Site site);
  int lane() const { return running_->lane(); }
  bool is_aligned(const void* address, size_t bytes, Site site);

  void barrier_init(size_t at, int arrivals, Site site);
  void barrier_arrive(size_t at, int64_t expected_bytes, Site site);
  void barrier_wait(size_t at, int parity, Site site);
  void start_copy(Span to, int64_t index, size_t element_bytes, const void* from, size_t bytes,
                  const size_t* barrier, Site site);
  void commit_copies() { ++running_->copy_group; }
  void wait_for_copies(int groups_left, Site site);
  void fence_for_copies();
  void cluster_arrive(Site site);
  void cluster_wait(Site site);
  int rank() const { return running_->block->rank; }
  int cluster() const { return static_cast<int>(options_.cluster); }
  int architecture() const { return options_.architecture; }
  Approximation approximation() const { return options_.approximation; }

 private:
  static void fibre();
  std::unique_ptr<Thread> new_thread(Block& block, int number) const;
  void prepare_cluster();
  bool run_cluster();  // false: given up
  void resume(Thread& thread);
  void pause();
  void wait(State state, Site site);
  void finish_thread();
  void finish_block(Block& block);
  bool release_block_barrier(Block& block);
  bool release_warp(Block& block, int warp);
  bool release_copy_barriers();
  bool release_cluster_barrier();
  bool deliver_copies();

  template <class Do>
  void for_threads(Do what) {
    for (auto& block : blocks_)
      for (auto& thread : block->threads) what(*thread);
  }
  // Adds what the thread knows, itself included.
  void add_knowledge(Knowledge& to, const Thread& thread) const;
  static void join(std::vector<uint32_t>& to, const Knowledge& from);
  size_t clocks() const { return static_cast<size_t>(cluster() * threads_) + barriers_.size(); }

  int find_barrier(size_t at, Site site);
  void end_phase_if_complete(int barrier);
  void tell_too_early(const Event& wait, Site arrival);
  void deliver(int copy);
  void check_word(Word& word, Access access, Site site);
  void check_overwriting(const Word& word, bool in_bulk, Site site);
  bool ordered(const Event& before, const Thread& after) const;
  void forget_old_reads(Word& word, const Block& block);
  void count_wavefronts(Block& block);
  void count_access(const std::vector<std::pair<int, uint32_t>>& lanes, size_t bytes, Site site);
  void tell(int64_t& kind, const std::string& what);
  void tell_race(const char* kinds, const Event& other, Site site);
  std::string name(const Thread& thread) const;
  std::string name(int in_cluster) const;
  std::string standstill() const;

  const std::function<void()>* kernel_ = nullptr;
  Options options_;
  Report report_;
  int threads_ = 0;  // of a block
  size_t dynamic_bytes_ = 0;
  std::vector<std::unique_ptr<Block>> blocks_;  // of the running cluster
  std::vector<Barrier> barriers_;
  std::vector<Copy> copies_;
  Knowledge cluster_knowledge_;  // of those that have arrived at the cluster's barrier
  Thread* running_ = nullptr;
  Context scheduler_;
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_stack_bytes_ = 0;
};

Machine* machine = nullptr;

void Machine::fibre() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &machine->scheduler_stack_, &machine->scheduler_stack_bytes_);
#endif
  for (;;) {  // a block each time
    (*machine->kernel_)();
    machine->finish_thread();
    machine->pause();
  }
}

void Machine::resume(Thread& thread) {
  running_ = &thread;
  const unsigned number = static_cast<unsigned>(thread.number);
  blockIdx = thread.block->index;
  threadIdx = {number % blockDim.x, number / blockDim.x % blockDim.y, number / (blockDim.x * blockDim.y)};
#if defined(__SANITIZE_ADDRESS__)
  void* own = nullptr;
  __sanitizer_start_switch_fiber(&own, thread.stack.get(), kStackBytes);
#endif
  Context::swap(scheduler_, thread.context);
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
  Context::swap(thread.context, scheduler_);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(thread.sanitizer_stack, &scheduler_stack_, &scheduler_stack_bytes_);
#endif
}

void Machine::wait(State state, Site site) {
  running_->state = state;
  running_->waits_at = site;
  pause();
}

void Machine::finish_thread() {
  running_->state = State::done;
  if (!running_->copies.empty())
    tell(report_.misuses, name(*running_) + " ends without waiting for its copy at " +
                              text_of(copies_[static_cast<size_t>(running_->copies.front())].site));
}

// The other blocks must be through with its memory: their accesses come before the end of one of its threads.
void Machine::finish_block(Block& block) {
  block.is_done = true;
  for (const auto& [visitor, visit] : block.visits)
    if (std::none_of(block.threads.begin(), block.threads.end(),
                     [&](const auto& thread) { return ordered(visit, *thread); }))
      tell(report_.races, "block " + std::to_string(block.rank) + " of the cluster may end before " +
                              name(visitor) + " accesses its memory at " + text_of(visit.site));
}

std::unique_ptr<Thread> Machine::new_thread(Block& block, int number) const {
  auto thread = std::make_unique<Thread>();
  thread->block = &block;
  thread->number = number;
  thread->in_cluster = block.rank * threads_ + number;
  thread->stack.reset(new char[kStackBytes]);
  thread->context.prepare(thread->stack.get(), kStackBytes, &Machine::fibre);
  return thread;
}

void Machine::prepare_cluster() {
  while (blocks_.size() < options_.cluster) {
    blocks_.push_back(std::make_unique<Block>());
    Block& block = *blocks_.back();
    block.rank = static_cast<int>(blocks_.size()) - 1;
    for (int number = 0; number < threads_; ++number) block.threads.push_back(new_thread(block, number));
  }
  barriers_.clear();
  copies_.clear();
  cluster_knowledge_.reset();
  for (auto& block : blocks_) {
    block->static_memory.clear();
    block->static_end = dynamic_bytes_;
    block->static_bytes = 0;
    block->base.reset();
    block->epoch = 0;
    block->is_done = false;
    block->visits.clear();
    block->memory.clear();
    block->resize(dynamic_bytes_);
    ++block->life;
  }
  for_threads([](Thread& thread) {
    thread.state = State::ready;
    thread.block_barriers = thread.warp_barriers = thread.cluster_barriers = 0;
    thread.waits = thread.expectations = thread.fences = 0;
    thread.has_arrived = false;
    thread.copies.clear();
    thread.copy_group = 0;
    thread.clocks.fill(0);
    thread.clock() = 1;
    thread.base.reset();
    thread.learnt.reset();
    thread.learnt_from = -1;
    thread.fenced = 0;
    thread.log.clear();
  });
}

Report Machine::run(dim3 grid, dim3 block, size_t dynamic_bytes, const std::function<void()>& kernel,
                    const Options& options) {
  kernel_ = &kernel;
  options_ = options;
  gridDim = grid;
  blockDim = block;
  threads_ = static_cast<int>(block.x * block.y * block.z);
  dynamic_bytes_ = dynamic_bytes;
  if (grid.x % options.cluster != 0) {
    tell(report_.misuses, "a grid of " + std::to_string(grid.x) + " blocks in x has no clusters of " +
                              std::to_string(options.cluster));
    return report_;
  }
  machine = this;
  bool goes_on = true;
  for (unsigned z = 0; z < grid.z && goes_on; ++z)
    for (unsigned y = 0; y < grid.y && goes_on; ++y)
      for (unsigned x = 0; x < grid.x && goes_on; x += options.cluster) {
        prepare_cluster();
        for (auto& of_cluster : blocks_)
          of_cluster->index = {x + static_cast<unsigned>(of_cluster->rank), y, z};
        goes_on = run_cluster();
      }
  machine = nullptr;
  return report_;
}

bool Machine::run_cluster() {
  const int warps = (threads_ + warpSize - 1) / warpSize;
  for (;;) {
    bool progress = false;
    for_threads([&](Thread& thread) {
      if (thread.state != State::ready) return;
      progress = true;
      resume(thread);
    });
    for (auto& block : blocks_)
      for (int warp = 0; warp < warps; ++warp) progress |= release_warp(*block, warp);
    if (progress) continue;
    bool all_done = true;
    for (auto& block : blocks_) {
      const bool is_done = std::all_of(block->threads.begin(), block->threads.end(),
                                       [](auto& thread) { return thread->state == State::done; });
      if (is_done && !block->is_done) finish_block(*block);
      all_done &= is_done;
      progress |= release_block_barrier(*block);
    }
    if (all_done) break;
    if (progress || release_copy_barriers() || release_cluster_barrier() || deliver_copies()) continue;
    tell(report_.divergences, "the threads wait for each other: " + standstill());
    return false;
  }
  for (const Copy& copy : copies_)
    if (!copy.arrived && copy.barrier >= 0)
      tell(report_.misuses, "the block ends before the copy at " + text_of(copy.site) + " has arrived");
  for (auto& block : blocks_) count_wavefronts(*block);
  for_threads([&](const Thread& thread) {
    report_.block_barriers = std::max(report_.block_barriers, thread.block_barriers);
    report_.warp_barriers = std::max(report_.warp_barriers, thread.warp_barriers);
    report_.cluster_barriers = std::max(report_.cluster_barriers, thread.cluster_barriers);
    report_.waits = std::max(report_.waits, thread.waits);
    report_.expectations = std::max(report_.expectations, thread.expectations);
    report_.fences = std::max(report_.fences, thread.fences);
  });
  return true;
}

// -------- what comes before what

void Machine::join(std::vector<uint32_t>& to, const Knowledge& from) {
  if (from == nullptr) return;
  if (to.size() < from->size()) to.resize(from->size());
  for (size_t i = 0; i < from->size(); ++i) to[i] = std::max(to[i], (*from)[i]);
}

void Machine::add_knowledge(Knowledge& to, const Thread& thread) const {
  auto sum = std::make_shared<std::vector<uint32_t>>(clocks());
  join(*sum, to);
  join(*sum, thread.base);
  join(*sum, thread.learnt);
  const size_t first = static_cast<size_t>(thread.in_cluster - thread.lane());
  for (size_t lane = 0; lane < thread.clocks.size() && first + lane < sum->size(); ++lane)
    if (thread.clocks[lane] > 0) (*sum)[first + lane] = std::max((*sum)[first + lane], thread.clocks[lane]);
  to = std::move(sum);
}

bool Machine::ordered(const Event& before, const Thread& after) const {
  if (before.thread == after.in_cluster || known(after.base, before.thread) >= before.clock ||
      known(after.learnt, before.thread) >= before.clock)
    return true;
  const int lane = before.thread - (after.in_cluster - after.lane());
  return lane >= 0 && lane < warpSize && before.thread < cluster() * threads_ &&
         before.thread / threads_ == after.block->rank &&
         after.clocks[static_cast<size_t>(lane)] >= before.clock;
}

// -------- barriers and warp operations

int Machine::block_barrier(Vote vote, int predicate, Site site) {
  if (vote == Vote::none) ++running_->block_barriers;
  running_->predicate = predicate;
  running_->block->vote = vote;
  wait(State::block_barrier, site);
  return running_->vote_result;
}

// Called when no thread can go on. False: not all of the block's threads are at one barrier.
bool Machine::release_block_barrier(Block& block) {
  const Site site = block.threads.front()->waits_at;
  int count = 0;
  for (auto& thread : block.threads) {
    if (thread->state != State::block_barrier || thread->waits_at.line() != site.line() ||
        thread->waits_at.column() != site.column())
      return false;
    count += thread->predicate != 0;
  }
  const bool removed =
      block.vote == Vote::none && block.threads.front()->block_barriers == options_.removed_block_barrier + 1;
  auto all = std::make_shared<std::vector<uint32_t>>(clocks());
  join(*all, block.base);
  const std::vector<uint32_t>* last = nullptr;
  for (auto& thread : block.threads) {
    thread->vote_result = block.vote == Vote::any   ? count > 0
                          : block.vote == Vote::all ? count == threads_
                                                    : count;
    thread->state = State::ready;
    (*all)[static_cast<size_t>(thread->in_cluster)] = thread->clock();
    if (thread->base != block.base) join(*all, thread->base);
    if (thread->learnt.get() != last) join(*all, thread->learnt);
    last = thread->learnt.get();
  }
  if (!removed) {
    block.base = std::move(all);
    ++block.epoch;
    for (auto& thread : block.threads) {
      thread->base = block.base;
      thread->learnt.reset();
      thread->learnt_from = -1;
      ++thread->clock();
    }
  }
  count_wavefronts(block);
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
    tell(report_.divergences, place() + name(thread) + " is not in its own mask");
  thread.operation = operation;
  thread.mask = mask;
  thread.value = value;
  wait(State::warp_operation, site);
  const bool exists = thread.warp() * warpSize + source < threads_;
  if ((mask >> source & 1u) == 0 || !exists)
    tell(report_.divergences,
         place() + name(thread) + " reads lane " + std::to_string(source) + ", which takes no part");
  return thread.received.data();
}

// Lets those lanes go on whose whole mask has arrived at the same operation.
bool Machine::release_warp(Block& block, int warp) {
  const int first = warp * warpSize;
  const int lanes = std::min(warpSize, threads_ - first);
  const auto lane_at = [&](int lane) -> Thread& { return *block.threads[static_cast<size_t>(first + lane)]; };
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
    Knowledge learnt = lane_at(leader).learnt;
    bool alike = true;
    for (int lane = 0; lane < lanes; ++lane) {
      if ((mask >> lane & 1u) == 0) continue;
      const Thread& thread = lane_at(lane);
      values[static_cast<size_t>(lane)] = thread.value;
      for (size_t of = 0; of < clocks.size(); ++of) clocks[of] = std::max(clocks[of], thread.clocks[of]);
      alike &= thread.learnt == learnt && thread.base == lane_at(leader).base;
    }
    if (orders && !alike) {
      auto sum = std::make_shared<std::vector<uint32_t>>();
      for (int lane = 0; lane < lanes; ++lane) {
        if ((mask >> lane & 1u) == 0) continue;
        join(*sum, lane_at(lane).base);
        join(*sum, lane_at(lane).learnt);
      }
      learnt = std::move(sum);
    }
    for (int lane = 0; lane < lanes; ++lane) {
      if ((mask >> lane & 1u) == 0) continue;
      Thread& thread = lane_at(lane);
      thread.received = values;
      thread.state = State::ready;
      if (!orders) continue;
      thread.clocks = clocks;
      ++thread.clock();
      if (alike) continue;
      thread.learnt = learnt;
      thread.learnt_from = -1;
    }
  }
  return progress;
}

std::string Machine::standstill() const {
  std::ostringstream text;
  const char* separator = "";
  for (const auto& block : blocks_) {
    if (blocks_.size() > 1) text << separator << "block " << block->rank << ": ";
    if (blocks_.size() > 1) separator = "";
    const auto& threads = block->threads;
    size_t begin = 0;
    while (begin < threads.size()) {  // runs of threads that wait alike
      size_t end = begin + 1;
      const Thread& thread = *threads[begin];
      while (end < threads.size() && threads[end]->state == thread.state &&
             (thread.state == State::done || (threads[end]->waits_at.line() == thread.waits_at.line() &&
                                              threads[end]->waits_at.column() == thread.waits_at.column())))
        ++end;
      text << separator << "threads " << begin << " to " << end - 1;
      separator = ", ";
      switch (thread.state) {
        case State::ready:
          text << " are ready";
          break;
        case State::done:
          text << " are done";
          break;
        case State::block_barrier:
          text << " wait for the block at " << text_of(thread.waits_at);
          break;
        case State::warp_operation:
          text << " wait for their warp at " << text_of(thread.waits_at);
          break;
        case State::cluster_barrier:
          text << " wait for the cluster at " << text_of(thread.waits_at);
          break;
        case State::copy_barrier: {
          const Barrier& barrier = barriers_[static_cast<size_t>(thread.barrier)];
          text << " wait at " << text_of(thread.waits_at) << " for the phase of parity " << thread.parity
               << " of the mbarrier of " << text_of(barrier.site) << ", in whose phase " << barrier.phase
               << " " << barrier.arrivals_left << " arrivals and " << barrier.bytes_left
               << " bytes are missing";
          break;
        }
      }
      begin = end;
    }
  }
  return text.str();
}

// -------- clusters

void Machine::cluster_arrive(Site site) {
  Thread& thread = *running_;
  if (thread.has_arrived)
    tell(report_.misuses, name(thread) + " arrives twice at the cluster's barrier at " + text_of(site));
  thread.has_arrived = true;
  if (thread.cluster_barriers == options_.removed_cluster_barrier) return;
  add_knowledge(cluster_knowledge_, thread);
  ++thread.clock();
}

void Machine::cluster_wait(Site site) {
  Thread& thread = *running_;
  if (!thread.has_arrived) {
    tell(report_.misuses,
         name(thread) + " waits at the cluster's barrier before it has arrived there at " + text_of(site));
    return;
  }
  wait(State::cluster_barrier, site);
}

bool Machine::release_cluster_barrier() {
  bool complete = true, any = false;
  for_threads([&](const Thread& thread) {
    complete &= thread.has_arrived || thread.state == State::done;
    any |= thread.state == State::cluster_barrier;
  });
  if (!complete || !any) return false;
  // All have arrived. Those that wait later find that it is over: here they wait for the others, which no
  // thread can notice.
  for_threads([&](const Thread& thread) {
    complete &= thread.state == State::cluster_barrier || thread.state == State::done;
  });
  if (!complete) return false;
  for_threads([&](Thread& thread) {
    if (thread.state == State::done) return;
    thread.state = State::ready;
    thread.has_arrived = false;
    if (thread.cluster_barriers++ == options_.removed_cluster_barrier) return;
    thread.base = cluster_knowledge_;
    thread.learnt.reset();
    thread.learnt_from = -1;
  });
  for (auto& block : blocks_) {
    if (block->threads.front()->base == cluster_knowledge_) {
      block->base = cluster_knowledge_;
      ++block->epoch;
    }
    count_wavefronts(*block);
  }
  cluster_knowledge_.reset();
  return true;
}

// -------- mbarriers

void Machine::barrier_init(size_t at, int arrivals, Site site) {
  Thread& thread = *running_;
  if (at % 8 != 0 || at + 8 > dynamic_bytes_) {
    tell(report_.out_of_bounds, "no mbarrier can be at byte " + std::to_string(at) + " at " + text_of(site));
    return;
  }
  for (size_t word = at / kWord; word < at / kWord + 2; ++word) {
    if (thread.block->word(word).barrier >= 0)
      tell(report_.misuses, "an mbarrier is initialised twice at " + text_of(site));
    check_overwriting(thread.block->word(word), false, site);
    thread.block->word(word).barrier = static_cast<int>(barriers_.size());
  }
  Barrier barrier;
  barrier.block = thread.block;
  barrier.at = at;
  barrier.arrivals = barrier.arrivals_left = arrivals;
  barrier.init = {thread.in_cluster, thread.clock(), false, site};
  barrier.site = site;
  barriers_.push_back(barrier);
}

// Its number, or -1.
int Machine::find_barrier(size_t at, Site site) {
  const Thread& thread = *running_;
  const int found = at + 8 <= dynamic_bytes_ && at % 8 == 0 ? thread.block->word(at / kWord).barrier : -1;
  if (found < 0 || barriers_[static_cast<size_t>(found)].at != at) {
    tell(report_.misuses, name(thread) + " uses an mbarrier that nobody initialised at " + text_of(site));
    return -1;
  }
  const Barrier& barrier = barriers_[static_cast<size_t>(found)];
  if (!ordered(barrier.init, thread)) tell_race("use and initialisation of an mbarrier", barrier.init, site);
  return found;
}

void Machine::barrier_arrive(size_t at, int64_t expected_bytes, Site site) {
  const int number = find_barrier(at, site);
  if (number < 0) return;
  Barrier& barrier = barriers_[static_cast<size_t>(number)];
  Thread& thread = *running_;
  if (expected_bytes > 0 && thread.expectations++ == options_.altered_expectation)
    expected_bytes += options_.expectation_error;
  if (barrier.arrivals_left == 0) {
    tell(report_.misuses, name(thread) + " arrives at " + text_of(site) + " at an mbarrier for " +
                              std::to_string(barrier.arrivals) + ", where all of this phase have arrived");
    return;
  }
  for (const Event& wait : barrier.waits)
    if (!ordered(wait, thread)) tell_too_early(wait, site);
  barrier.bytes_left += expected_bytes;
  --barrier.arrivals_left;
  barrier.last_arrival = site;
  add_knowledge(barrier.of_arrivals, thread);
  ++thread.clock();
  end_phase_if_complete(number);
}

void Machine::end_phase_if_complete(int number) {
  Barrier& barrier = barriers_[static_cast<size_t>(number)];
  if (barrier.arrivals_left > 0 || barrier.bytes_left > 0) return;
  if (barrier.bytes_left < 0) {
    tell(report_.misuses, "the mbarrier of " + text_of(barrier.site) + " gets " +
                              std::to_string(-barrier.bytes_left) + " bytes more than its phase " +
                              std::to_string(barrier.phase) + " expects");
    barrier.bytes_left = 0;
  }
  auto over = std::make_shared<std::vector<uint32_t>>(clocks());
  join(*over, barrier.of_phases);
  join(*over, barrier.of_arrivals);
  (*over)[static_cast<size_t>(cluster() * threads_ + number)] = ++barrier.phase;
  barrier.of_phases = std::move(over);
  barrier.of_arrivals.reset();
  barrier.arrivals_left = barrier.arrivals;
  barrier.waits.clear();
}

// Phases are known by their parity: who waits for one must be through before the next one can end.
void Machine::tell_too_early(const Event& wait, Site arrival) {
  tell(report_.misuses, "the arrival at " + text_of(arrival) + " may end the next phase before " +
                            name(wait.thread) + " has seen the end of this one at " + text_of(wait.site));
}

void Machine::barrier_wait(size_t at, int parity, Site site) {
  Thread& thread = *running_;
  const int number = find_barrier(at, site);
  const int64_t order = thread.waits++;
  if (number < 0 || order == options_.removed_wait) return;
  thread.barrier = number;
  thread.parity = order == options_.flipped_wait ? 1 - parity : parity;
  wait(State::copy_barrier, site);
  Barrier& barrier = barriers_[static_cast<size_t>(number)];
  const Event event{thread.in_cluster, thread.clock(), false, site};
  if (barrier.phase != thread.phase || barrier.arrivals_left < barrier.arrivals)
    tell_too_early(event, barrier.last_arrival);
  barrier.waits.push_back(event);
  if (barrier.of_phases == nullptr) return;  // the phase before the first
  if (thread.learnt == nullptr || thread.learnt_from == number) {
    thread.learnt = barrier.of_phases;
    thread.learnt_from = number;
    return;
  }
  auto sum = std::make_shared<std::vector<uint32_t>>();
  join(*sum, thread.learnt);
  join(*sum, barrier.of_phases);
  thread.learnt = std::move(sum);
  thread.learnt_from = -1;
}

bool Machine::release_copy_barriers() {
  bool progress = false;
  for_threads([&](Thread& thread) {
    if (thread.state != State::copy_barrier) return;
    thread.phase = barriers_[static_cast<size_t>(thread.barrier)].phase;
    if (static_cast<int>(thread.phase & 1u) == thread.parity) return;
    thread.state = State::ready;
    progress = true;
  });
  return progress;
}

// -------- asynchronous copies

void Machine::start_copy(Span to, int64_t index, size_t element_bytes, const void* from, size_t bytes,
                         const size_t* barrier, Site site) {
  Thread& thread = *running_;
  const auto place = [&] { return "the copy by " + name(thread) + " at " + text_of(site); };
  const size_t first_byte = to.first_byte + static_cast<size_t>(index) * element_bytes;
  if (index < 0 || index + static_cast<int64_t>(bytes / element_bytes) > to.count ||
      first_byte + bytes > thread.block->memory.size()) {
    tell(report_.out_of_bounds, place() + " goes beyond element " + std::to_string(to.count));
    return;
  }
  if (bytes == 0 || bytes % 16 != 0 || first_byte % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0) {
    tell(report_.misuses, place() + ": addresses and size must be multiples of 16 bytes, and some to copy");
    return;
  }
  int number = -1;
  if (barrier != nullptr) {
    number = find_barrier(*barrier, site);
    if (number < 0) return;
    const Event& init = barriers_[static_cast<size_t>(number)].init;
    const Thread& by = *thread.block->threads[static_cast<size_t>(init.thread % threads_)];
    if (by.fenced < init.clock)
      tell(report_.misuses, place() + " uses an mbarrier that the copy engine cannot see: no fence");
  }
  Copy copy{
      thread.block,      first_byte, static_cast<const unsigned char*>(from), {}, number, thread.copy_group,
      thread.in_cluster, site};
  copy.bytes.assign(copy.source, copy.source + bytes);
  for (size_t word = first_byte / kWord; word < (first_byte + bytes) / kWord; ++word) {
    Word& written = thread.block->word(word);
    check_overwriting(written, barrier != nullptr, site);
    written.copy = static_cast<int>(copies_.size());
    written.reads.clear();
  }
  std::fill_n(thread.block->memory.begin() + static_cast<std::ptrdiff_t>(first_byte), bytes,
              static_cast<unsigned char>(0xff));  // NaN
  if (barrier == nullptr) thread.copies.push_back(static_cast<int>(copies_.size()));
  copies_.push_back(std::move(copy));
  report_.copied_bytes += static_cast<int64_t>(bytes);
}

void Machine::deliver(int number) {
  Copy& copy = copies_[static_cast<size_t>(number)];
  copy.arrived = true;
  if (std::memcmp(copy.source, copy.bytes.data(), copy.bytes.size()) != 0)
    tell(report_.races, "the source of the copy at " + text_of(copy.site) + " changes meanwhile");
  std::memcpy(copy.block->memory.data() + copy.first_byte, copy.bytes.data(), copy.bytes.size());
  Event event{copy.thread, 0, false, copy.site};
  if (copy.barrier >= 0) {
    event.thread = cluster() * threads_ + copy.barrier;
    event.clock = barriers_[static_cast<size_t>(copy.barrier)].phase + 1;
  } else {
    event.clock = copy.block->threads[static_cast<size_t>(copy.thread % threads_)]->clock();
  }
  for (size_t i = 0; i < copy.bytes.size() / kWord; ++i) {
    Word& word = copy.block->word(copy.first_byte / kWord + i);
    if (word.copy != number) continue;
    word.copy = -1;
    word.written = true;
    word.last_write = event;
  }
}

// Called when no thread can go on.
bool Machine::deliver_copies() {
  bool progress = false;
  for (size_t i = 0; i < copies_.size(); ++i) {
    if (copies_[i].arrived || copies_[i].barrier < 0) continue;
    progress = true;
    deliver(static_cast<int>(i));
    barriers_[static_cast<size_t>(copies_[i].barrier)].bytes_left -=
        static_cast<int64_t>(copies_[i].bytes.size());
    end_phase_if_complete(copies_[i].barrier);
  }
  return progress;
}

void Machine::wait_for_copies(int groups_left, Site) {
  Thread& thread = *running_;
  if (thread.waits++ == options_.removed_wait) return;
  std::erase_if(thread.copies, [&](int number) {
    if (copies_[static_cast<size_t>(number)].group >= thread.copy_group - groups_left) return false;
    deliver(number);
    return true;
  });
}

void Machine::fence_for_copies() {
  Thread& thread = *running_;
  if (thread.fences++ == options_.removed_fence) return;
  thread.fenced = thread.clock()++;
}

// -------- shared memory

size_t Machine::static_memory(const void* owner, size_t bytes) {
  Block& block = *running_->block;
  const auto [at, is_new] = block.static_memory.try_emplace(owner, (block.static_end + 127) / 128 * 128);
  if (is_new) {
    block.static_end = at->second + bytes;
    block.static_bytes += (bytes + 15) / 16 * 16;  // as DGDD_SHARED aligns it
    report_.static_bytes = std::max(report_.static_bytes, block.static_bytes);
  }
  if (block.static_end > (dynamic_bytes_ + 127) / 128 * 128 + kStaticBytes)
    tell(report_.out_of_bounds, "more static shared memory than CUDA allows");
  else if (block.static_end > block.memory.size())
    block.resize(block.static_end);
  return at->second;
}

void* Machine::access(Span span, int64_t index, size_t bytes, Access access, Site site) {
  Thread& thread = *running_;
  const size_t first_byte = span.first_byte + static_cast<size_t>(index) * bytes;
  if (span.block >= cluster() || index < 0 || index >= span.count ||
      first_byte + bytes > thread.block->memory.size()) {
    tell(report_.out_of_bounds,
         name(thread) + " accesses element " + std::to_string(index) + " of " + std::to_string(span.count) +
             (span.block < 0 ? "" : " of block " + std::to_string(span.block)) + " at " + text_of(site));
    return nullptr;
  }
  if (first_byte % bytes != 0) {
    tell(report_.misaligned, name(thread) + ": misaligned access at " + text_of(site));
    return nullptr;
  }
  const bool is_remote = span.block >= 0 && span.block != thread.block->rank;
  Block& block = is_remote ? *blocks_[static_cast<size_t>(span.block)] : *thread.block;
  if (is_remote) {
    report_.remote_bytes += static_cast<int64_t>(bytes);
    if (block.is_done)
      tell(report_.races, name(thread) + " accesses the memory of block " + std::to_string(block.rank) +
                              " of the cluster, which has ended, at " + text_of(site));
    block.visits[thread.in_cluster] = {thread.in_cluster, thread.clock(), false, site};
    if (first_byte + bytes > block.memory.size()) block.resize(thread.block->memory.size());
  }
  for (size_t word = first_byte / kWord; word <= (first_byte + bytes - 1) / kWord; ++word) {
    forget_old_reads(block.word(word), block);
    check_word(block.word(word), access, site);
  }
  if (!is_remote && options_.counts_wavefronts)
    thread.log.push_back({static_cast<uint32_t>(first_byte), static_cast<uint32_t>(bytes), site});
  return block.memory.data() + first_byte;
}

bool Machine::is_aligned(const void* address, size_t bytes, Site site) {
  if (reinterpret_cast<uintptr_t>(address) % bytes == 0) return true;
  tell(report_.misaligned, name(*running_) + " moves " + std::to_string(bytes) +
                               " bytes from or to a global address that is no multiple of it at " +
                               text_of(site));
  return false;
}

void Machine::forget_old_reads(Word& word, const Block& block) {
  if (word.epoch == block.epoch) return;
  word.epoch = block.epoch;
  std::erase_if(word.reads, [&](const Event& read) { return known(block.base, read.thread) >= read.clock; });
}

void Machine::tell_race(const char* kinds, const Event& other, Site site) {
  const std::string who = other.thread < cluster() * threads_ ? name(other.thread) : "a copy";
  tell(report_.races, std::string(kinds) + " by " + name(*running_) + " at " + text_of(site) + " and by " +
                          who + " at " + text_of(other.site) + " with no barrier between");
}

// What holds for every write, and for copies from when they start.
void Machine::check_overwriting(const Word& word, bool in_bulk, Site site) {
  const Thread& thread = *running_;
  if (word.copy >= 0) {
    const Copy& copy = copies_[static_cast<size_t>(word.copy)];
    tell_race("write and copy", {copy.thread, 0, false, copy.site}, site);
    return;
  }
  const bool is_written = word.last_write.thread >= 0;
  if (is_written && !ordered(word.last_write, thread)) tell_race("write and write", word.last_write, site);
  if (is_written && in_bulk && word.last_write.thread < cluster() * threads_) {
    const int by = word.last_write.thread;
    const Thread& writer =
        *blocks_[static_cast<size_t>(by / threads_)]->threads[static_cast<size_t>(by % threads_)];
    if (writer.fenced < word.last_write.clock)
      tell(report_.misuses, "the copy at " + text_of(site) + " may come before the write at " +
                                text_of(word.last_write.site) + ": no fence");
  }
  for (const Event& read : word.reads)
    if (!ordered(read, thread)) {
      tell_race("write and read", read, site);
      break;
    }
}

void Machine::check_word(Word& word, Access access, Site site) {
  const Thread& thread = *running_;
  if (word.barrier >= 0) {
    tell(report_.misuses, name(thread) + " accesses an mbarrier like other memory at " + text_of(site));
    return;
  }
  if (word.copy >= 0) {
    const Copy& copy = copies_[static_cast<size_t>(word.copy)];
    tell_race("access and copy", {copy.thread, 0, false, copy.site}, site);
    return;
  }
  const Event event = {thread.in_cluster, thread.clock(), access == Access::atomic, site};
  if (access != Access::write && !word.written)
    tell(report_.uninitialised, name(thread) + " reads what nobody wrote at " + text_of(site));
  if (access == Access::read) {
    if (word.last_write.thread >= 0 && !ordered(word.last_write, thread))
      tell_race("read and write", word.last_write, site);
    if (word.reads.empty() || word.reads.back().thread != event.thread ||
        word.reads.back().clock != event.clock)
      word.reads.push_back(event);
    return;
  }
  const bool both_atomic = access == Access::atomic && word.last_write.atomic;
  if (!both_atomic || word.last_write.thread < 0) {
    check_overwriting(word, false, site);
  } else {
    for (const Event& read : word.reads)
      if (!ordered(read, thread)) {
        tell_race("write and read", read, site);
        break;
      }
  }
  word.reads.clear();
  word.last_write = event;
  word.written = true;
}

// -------- bank conflicts

// Matches the lanes' accesses since the last block barrier: usually all lanes of a warp went the same way.
void Machine::count_wavefronts(Block& block) {
  const std::vector<std::unique_ptr<Thread>>& threads = block.threads;
  const auto same = [](const Site& a, const Site& b) {
    return a.line() == b.line() && a.column() == b.column();
  };
  for (size_t first = 0; first < threads.size(); first += warpSize) {
    const size_t lanes = std::min<size_t>(warpSize, threads.size() - first);
    const std::vector<LoggedAccess>& leader = threads[first]->log;
    bool alike = true;
    for (size_t lane = 1; alike && lane < lanes; ++lane) {
      const std::vector<LoggedAccess>& log = threads[first + lane]->log;
      alike = log.size() == leader.size();
      for (size_t i = 0; alike && i < log.size(); ++i) alike = same(log[i].site, leader[i].site);
    }
    std::vector<std::pair<int, uint32_t>> together;
    if (alike) {
      for (size_t i = 0; i < leader.size(); ++i) {
        together.clear();
        for (size_t lane = 0; lane < lanes; ++lane)
          together.emplace_back(static_cast<int>(lane), threads[first + lane]->log[i].first_byte);
        count_access(together, leader[i].bytes, leader[i].site);
      }
    } else {
      std::map<std::array<uint64_t, 3>, std::vector<std::pair<int, const LoggedAccess*>>> by_execution;
      for (size_t lane = 0; lane < lanes; ++lane) {
        std::map<std::pair<uint64_t, uint64_t>, uint64_t> executions;
        for (const LoggedAccess& access : threads[first + lane]->log) {
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
    for (size_t lane = 0; lane < lanes; ++lane) threads[first + lane]->log.clear();
  }
}

void Machine::count_access(const std::vector<std::pair<int, uint32_t>>& lanes, size_t bytes, Site site) {
  bytes = std::max(bytes, kWord);
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

std::string Machine::name(const Thread& thread) const {
  const uint3 block = thread.block->index;
  return "thread " + std::to_string(thread.number) + " of block (" + std::to_string(block.x) + ", " +
         std::to_string(block.y) + ", " + std::to_string(block.z) + ")";
}

std::string Machine::name(int in_cluster) const {
  return name(*blocks_[static_cast<size_t>(in_cluster / threads_)]
                   ->threads[static_cast<size_t>(in_cluster % threads_)]);
}

// -------- approximations

// `exact` as the device may give it, with a relative error of 2^-23 at most; `bits` decide what is mixed.
float approximated(double exact, float bits) {
  const Approximation all = machine == nullptr ? Approximation::nearest : machine->approximation();
  const uint32_t draw = (__builtin_bit_cast(uint32_t, bits) * 2654435761u >> 16) % 3;
  const Approximation how = all == Approximation::mixed ? static_cast<Approximation>(draw) : all;
  const float nearest = static_cast<float>(exact);
  if (how == Approximation::nearest || exact == 0 || !std::isfinite(exact)) return nearest;
  const double bound = how == Approximation::low ? exact * (1 - 0x1p-23) : exact * (1 + 0x1p-23);
  const float next = static_cast<float>(bound);
  if (how == Approximation::low) return next < bound ? std::nextafter(next, INFINITY) : next;
  return next > bound ? std::nextafter(next, 0.0f) : next;
}

float flushed(float value) { return std::fabs(value) < 0x1p-126f ? std::copysign(0.0f, value) : value; }

}  // namespace

std::string Report::text() const {
  std::ostringstream text;
  text << races << " races, " << out_of_bounds << " out of bounds, " << misaligned << " misaligned, "
       << uninitialised << " uninitialised, " << divergences << " divergences, " << misuses << " misuses, "
       << bank_conflicts << " bank conflicts in " << wavefronts << " wavefronts";
  for (const std::string& line : told) text << "\n  " << line;
  for (const auto& [site, conflicts] : conflicts_at) text << "\n  " << conflicts << " conflicts at " << site;
  return text.str();
}

Report launch(dim3 grid, dim3 block, size_t dynamic_shared_bytes, const std::function<void()>& kernel,
              const Options& options) {
  return Machine().run(grid, block, dynamic_shared_bytes, kernel, options);
}

void* shared_access(Span span, int64_t index, size_t bytes, Access access, Site site) {
  return machine->access(span, index, bytes, access, site);
}
bool is_aligned(const void* address, size_t bytes, Site site) {
  return machine->is_aligned(address, bytes, site);
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

void barrier_init(size_t at, int arrivals, Site site) { machine->barrier_init(at, arrivals, site); }
void barrier_arrive(size_t at, int64_t expected_bytes, Site site) {
  machine->barrier_arrive(at, expected_bytes, site);
}
void barrier_wait(size_t at, int parity, Site site) { machine->barrier_wait(at, parity, site); }
void copy_bulk(Span to, int64_t index, size_t element_bytes, const void* from, size_t bytes, size_t barrier,
               Site site) {
  machine->start_copy(to, index, element_bytes, from, bytes, &barrier, site);
}
void copy_by_thread(Span to, int64_t index, size_t element_bytes, const void* from, size_t bytes, Site site) {
  machine->start_copy(to, index, element_bytes, from, bytes, nullptr, site);
}
void commit_copies() { machine->commit_copies(); }
void wait_for_copies(int groups_left, Site site) { machine->wait_for_copies(groups_left, site); }
void fence_for_copies() { machine->fence_for_copies(); }
void cluster_arrive(Site site) { machine->cluster_arrive(site); }
void cluster_wait(Site site) { machine->cluster_wait(site); }
int cluster_rank() { return machine->rank(); }
int cluster_size() { return machine->cluster(); }
int architecture() { return machine->architecture(); }

float approximate_square_root(float value) {
  const float root = flushed(value);
  return std::isnan(root) || root < 0 ? NAN : approximated(std::sqrt(static_cast<double>(root)), value);
}
float approximate_reciprocal(float value) {
  return flushed(approximated(1 / static_cast<double>(flushed(value)), value));
}

}  // namespace dgdd::emulator
