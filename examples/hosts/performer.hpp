/*
 * performer.hpp - Performer for a C++ host, to be copied into it: handles that close themselves,
 * and failures as exceptions. It is thin: what has no method here is called as in C, with get().
 * C++11. Exceptions must not pass through the library: callbacks catch their own.
 */
#ifndef PERFORMER_HPP
#define PERFORMER_HPP

#include <performer.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace performer {

class Error : public std::runtime_error {
  public:
    explicit Error(int status) : std::runtime_error(pf_last_error()), status_(status) {}
    int status() const noexcept { return status_; }
    const char *name() const noexcept { return pf_status_name(status_); }

  private:
    int status_;
};

/* What the call returned, if it did not fail. */
inline int check(int status) {
    if (status < 0) throw Error(status);
    return status;
}

/* Owns one handle; `Close` is the call that takes its address and clears it. */
template <class T, void (*Close)(T **)> class Handle {
  public:
    Handle() noexcept = default;
    explicit Handle(T *owned) noexcept : raw_(owned) {}
    Handle(Handle &&other) noexcept : raw_(other.release()) {}
    Handle &operator=(Handle &&other) noexcept {
        if (this != &other) reset(other.release());
        return *this;
    }
    Handle(const Handle &) = delete;
    Handle &operator=(const Handle &) = delete;
    ~Handle() { Close(&raw_); }

    T *get() const noexcept { return raw_; }
    explicit operator bool() const noexcept { return raw_ != nullptr; }
    /* For calls that make one: check(pf_...(handle.out(), ...)); what it held is closed. */
    T **out() noexcept {
        reset();
        return &raw_;
    }
    void reset(T *owned = nullptr) noexcept {
        Close(&raw_);
        raw_ = owned;
    }
    T *release() noexcept {
        T *raw = raw_;
        raw_ = nullptr;
        return raw;
    }

  private:
    T *raw_ = nullptr;
};

using Tensor = Handle<pf_tensor, pf_tensor_release>;
using Tape = Handle<pf_tape, pf_tape_close>;
using Optimizer = Handle<pf_optimizer, pf_optimizer_close>;
using Data = Handle<pf_data, pf_data_close>;

class Engine : public Handle<pf_engine, pf_engine_close> {
  public:
    explicit Engine(const pf_options &options = pf_options_default()) {
        check(pf_engine_open(out(), &options));
    }
};

/* A model is shared: copies hold the same weights. */
class Model : public Handle<pf_module, pf_module_release> {
  public:
    Model(const Engine &engine, const std::string &folder) {
        check(pf_model_load(out(), engine.get(), folder.c_str()));
    }
    explicit Model(pf_module *owned) noexcept : Handle(owned) {}
    Model share() const { return Model(pf_module_retain(get())); }
};

/* One sequence that is read and written. Tokens are bytes where the model has bytes. */
class Stream : public Handle<pf_stream, pf_stream_close> {
  public:
    Stream(const Engine &engine, const Model &model) {
        check(pf_stream_open(out(), engine.get(), model.get()));
    }
    void feed(const std::vector<std::int32_t> &ids) {
        check(pf_stream_feed(get(), ids.data(), ids.size()));
    }
    /* The next token by the logits that stand. */
    std::int32_t sample(const pf_sampling &sampling) {
        std::int32_t next = 0;
        check(pf_stream_sample(get(), &sampling, &next));
        return next;
    }
    std::int64_t position() const noexcept { return pf_stream_position(get()); }
    Stream fork() const {
        Stream copy;
        check(pf_stream_fork(copy.out(), get()));
        return copy;
    }

  private:
    Stream() = default;
};

inline pf_sampling sampling(double temperature, std::uint64_t seed) {
    pf_sampling s = pf_sampling();
    s.size = sizeof s, s.temperature = temperature, s.seed = seed;
    return s;
}

} // namespace performer

#endif
