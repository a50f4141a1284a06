/*
 * performer.hpp - Performer for a C++ host, to be copied into it: handles that close themselves,
 * and failures as exceptions. It is thin: what has no method here is called as in C, with get().
 * C++11. Exceptions must not pass through the library: callbacks catch their own.
 *
 * Handles are moved, not copied, and may be empty: made so (but for an Engine, which opens), moved
 * from, or after reset(). Scripts inside a host: performer_lua.hpp.
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
    explicit Error(int status, const char *what = pf_last_error())
        : std::runtime_error(what), status_(status) {}
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

/* A model is shared: what share() gives holds the same weights. */
class Model : public Handle<pf_module, pf_module_release> {
  public:
    Model() noexcept = default;
    Model(const Engine &engine, const std::string &folder) {
        check(pf_model_load(out(), engine.get(), folder.c_str()));
    }
    explicit Model(pf_module *owned) noexcept : Handle(owned) {}
    Model share() const { return Model(pf_module_retain(get())); }
    /* A folder to be shipped. */
    void save(const Engine &engine, const std::string &folder) const {
        check(pf_model_save(engine.get(), folder.c_str(), get(), nullptr));
    }
};

/* One sequence that is read and written. Tokens are bytes where the model has bytes. */
class Stream : public Handle<pf_stream, pf_stream_close> {
  public:
    Stream() noexcept = default;
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
    /* Feeds the token, and draws the next one. */
    std::int32_t next(std::int32_t token, const pf_sampling &sampling) {
        std::int32_t next = 0;
        check(pf_stream_next(get(), token, &sampling, &next));
        return next;
    }
    std::int64_t position() const noexcept { return pf_stream_position(get()); }
    Stream fork() const {
        Stream copy;
        check(pf_stream_fork(copy.out(), get()));
        return copy;
    }
    void save(const std::string &file) const { check(pf_stream_save(get(), file.c_str())); }
    static Stream load(const Engine &engine, const Model &model, const std::string &file) {
        Stream stream;
        check(pf_stream_load(stream.out(), engine.get(), model.get(), file.c_str()));
        return stream;
    }
};

inline pf_sampling sampling(double temperature, std::uint64_t seed) {
    pf_sampling s = pf_sampling();
    s.size = sizeof s, s.temperature = temperature, s.seed = seed;
    return s;
}

/* Of a sequence of a running batch: how many tokens it is to have (0: no bound), and how they are
 * drawn; the sampling must be there until it has joined. */
inline pf_sequence_options sequence(std::int64_t tokens, const pf_sampling *sampling = nullptr) {
    pf_sequence_options s = pf_sequence_options();
    s.size = sizeof s, s.tokens = tokens, s.sampling = sampling;
    return s;
}

/* A running batch, which sequences join and leave. */
class Serving : public Handle<pf_serving, pf_serving_close> {
  public:
    Serving() noexcept = default;
    Serving(const Engine &engine, const Model &model, const pf_serving_options *options = nullptr) {
        check(pf_serving_open(out(), engine.get(), model.get(), options));
    }
    std::int64_t join(const std::vector<std::int32_t> &prompt, const pf_sequence_options &options) {
        std::int64_t id = -1;
        check(pf_serving_join(get(), prompt.data(), prompt.size(), &options, &id));
        return id;
    }
    void leave(std::int64_t id) { check(pf_serving_leave(get(), id)); }
    /* All move on by a token: what was made. A sequence that has ended stays until it leaves. */
    std::vector<pf_served> step() {
        std::size_t n = 0;
        check(pf_serving_step(get()));
        const pf_served *made = pf_serving_made(get(), &n);
        return std::vector<pf_served>(made, made + n);
    }
    std::int64_t count() const noexcept { return pf_serving_count(get()); }
};

} // namespace performer

#endif
