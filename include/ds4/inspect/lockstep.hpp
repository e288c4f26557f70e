// Two passes over the same tokens that wait for each other at every stage.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include <ds4/core/error.hpp>
#include <ds4/layers/observer.hpp>

namespace ds4::inline v0_1::detail {

/// Runs two passes side by side, so that every stage of the one can be compared with the other's
/// while both are in memory, and no others are. T and R are the scalars of the two backends.
/// Comparison has values(layer, stage, got, expected) and indices(layer, stage, got, expected).
template <class T, class R, class Comparison>
class Lockstep {
 public:
  explicit Lockstep(Comparison& comparison) : comparison_(comparison) {}
  Lockstep(const Lockstep&) = delete;
  Lockstep& operator=(const Lockstep&) = delete;

  /// Calls pass(observer) on this thread and reference_pass(observer) on one of its own. Throws
  /// what one of them or the comparison throws, and ds4::Error if their stages are not the same.
  template <class Pass, class ReferencePass>
  void run(Pass&& pass, ReferencePass&& reference_pass) {
    std::exception_ptr reference_failure;
    Shown shown(*this);
    std::thread reference([&] {
      try {
        reference_pass(shown);
      } catch (...) {
        reference_failure = std::current_exception();
      }
      leave();
    });
    Compared compared(*this);
    std::exception_ptr own_failure;
    try {
      pass(compared);
    } catch (...) {
      own_failure = std::current_exception();
    }
    leave();
    reference.join();
    for (const auto& failure : {own_failure, reference_failure, failure_}) {
      if (failure) std::rethrow_exception(failure);
    }
  }

 private:
  struct Stage {
    std::size_t layer;
    std::string_view name;
    std::span<const R> values;
    std::span<const std::int32_t> indices;
  };

  /// Of the reference: shows each stage and waits until it has been compared.
  class Shown final : public StageObserver<R> {
   public:
    explicit Shown(Lockstep& owner) : owner_(owner) {}
    void values(std::size_t layer, std::string_view stage, std::span<const R> values) override {
      owner_.show({layer, stage, values, {}});
    }
    void indices(std::size_t layer, std::string_view stage,
                 std::span<const std::int32_t> indices) override {
      owner_.show({layer, stage, {}, indices});
    }

   private:
    Lockstep& owner_;
  };

  /// Of the other pass: waits for the reference's stage and compares the two.
  class Compared final : public StageObserver<T> {
   public:
    explicit Compared(Lockstep& owner) : owner_(owner) {}
    void values(std::size_t layer, std::string_view stage, std::span<const T> values) override {
      owner_.compare(layer, stage, [&](const Stage& expected) {
        owner_.comparison_.values(layer, stage, values, expected.values);
      });
    }
    void indices(std::size_t layer, std::string_view stage,
                 std::span<const std::int32_t> indices) override {
      owner_.compare(layer, stage, [&](const Stage& expected) {
        owner_.comparison_.indices(layer, stage, indices, expected.indices);
      });
    }

   private:
    Lockstep& owner_;
  };

  void show(const Stage& stage) {
    std::unique_lock lock(mutex_);
    if (over_) return;
    shown_ = &stage;
    changed_.notify_all();
    changed_.wait(lock, [&] { return shown_ == nullptr || over_; });
    if (shown_ != nullptr) fail_at(stage.layer, stage.name, "nothing", stage.name);
    shown_ = nullptr;
  }

  /// An observer may be called inside a parallel region, which no exception can leave: what is
  /// thrown is kept for the end of run().
  template <class Compare>
  void compare(std::size_t layer, std::string_view stage, Compare&& compare_with) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return shown_ != nullptr || over_; });
    if (shown_ == nullptr) return fail_at(layer, stage, stage, "nothing");
    try {
      if (shown_->layer != layer || shown_->name != stage) {
        fail_at(layer, stage, stage, shown_->name);
      } else {
        compare_with(*shown_);
      }
    } catch (...) {
      if (!failure_) failure_ = std::current_exception();
      over_ = true;
    }
    shown_ = nullptr;
    changed_.notify_all();
  }

  /// One of the passes has come to its end.
  void leave() {
    const std::scoped_lock lock(mutex_);
    over_ = true;
    changed_.notify_all();
  }

  void fail_at(std::size_t layer, std::string_view stage, std::string_view found,
               std::string_view expected) {
    over_ = true;
    if (failure_) return;
    failure_ = std::make_exception_ptr(
        Error("layer " + std::to_string(layer) + " " + std::string(stage),
              "found the stage " + std::string(found) + ", expected " + std::string(expected)));
  }

  Comparison& comparison_;
  std::mutex mutex_;
  std::condition_variable changed_;
  const Stage* shown_ = nullptr;  // the reference's, until it has been compared
  bool over_ = false;             // nobody waits any more
  std::exception_ptr failure_;
};

}  // namespace ds4::inline v0_1::detail
