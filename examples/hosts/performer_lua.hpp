/*
 * performer_lua.hpp - scripts inside a C++ host, as performer.hpp has the rest: values that let go of
 * what they own, and functions of the host's whose exceptions are raised in the script.
 */
#ifndef PERFORMER_LUA_HPP
#define PERFORMER_LUA_HPP

#include "performer.hpp"

#include <performer_lua.h>

#include <functional>
#include <list>

namespace performer {

/* What the call returned, if it did not fail; a script's failure is told with its traceback. */
inline int check_script(int status) {
    if (status < 0) throw Error(status, pf_script_error());
    return status;
}

/* A value that crosses. One that is made of a text borrows it: the text must outlive it. */
class Value {
  public:
    Value() noexcept : raw_(pf_value_nil()) {}
    Value(bool value) noexcept : raw_(pf_value_bool(value)) {}
    Value(int value) noexcept : raw_(pf_value_integer(value)) {}
    Value(std::int64_t value) noexcept : raw_(pf_value_integer(value)) {}
    Value(double value) noexcept : raw_(pf_value_number(value)) {}
    Value(const std::string &text) noexcept : raw_(pf_value_text(text.data(), text.size())) {}
    Value(const char *text) : Value(pf_value_text(text, std::char_traits<char>::length(text))) {}
    Value(pf_value taken) noexcept : raw_(taken) {}
    Value(Value &&other) noexcept : raw_(other.release()) {}
    Value &operator=(Value &&other) noexcept {
        if (this != &other) pf_value_clear(&raw_), raw_ = other.release();
        return *this;
    }
    Value(const Value &) = delete;
    Value &operator=(const Value &) = delete;
    ~Value() { pf_value_clear(&raw_); }

    /* One that owns what it holds, and outlives what it was made of. */
    static Value copy(const pf_value &value) {
        Value own;
        check_script(pf_value_copy(&own.raw_, &value));
        return own;
    }
    const pf_value &get() const noexcept { return raw_; }
    pf_value release() noexcept {
        const pf_value raw = raw_;
        raw_ = pf_value_nil();
        return raw;
    }
    bool is_nil() const noexcept { return raw_.kind == PF_VALUE_NIL; }
    /* What it is in the host's terms; of another kind it throws. */
    double number() const {
        if (raw_.kind == PF_VALUE_INTEGER) return static_cast<double>(raw_.as.integer);
        need(PF_VALUE_NUMBER, "a number");
        return raw_.as.number;
    }
    std::string text() const {
        need(PF_VALUE_TEXT, "a text");
        return std::string(raw_.as.text, raw_.bytes);
    }

  private:
    void need(pf_value_kind kind, const char *what) const {
        if (raw_.kind == kind) return;
        throw Error(PF_EINVAL, (std::string("the script's value is not ") + what).c_str());
    }
    pf_value raw_;
};

class Script : public Handle<pf_script, pf_script_close> {
  public:
    /* Gives one value, or a nil; what it throws is raised in the script. */
    using Function = std::function<Value(const std::vector<pf_value> &)>;

    Script() noexcept = default;
    explicit Script(const Engine &engine, const pf_script_options *options = nullptr) {
        check_script(pf_script_open(out(), engine.get(), options));
    }
    Script(Script &&) = default;
    Script &operator=(Script &&) = default;
    /* The state goes before the functions that it may call. */
    ~Script() { reset(); }

    void load(const std::string &name, const std::string &text) {
        check_script(pf_script_load(get(), name.c_str(), text.data(), text.size()));
    }
    void load_file(const std::string &path) {
        check_script(pf_script_load_file(get(), path.c_str()));
    }
    void set(const std::string &name, const Value &value) {
        check_script(pf_script_set(get(), name.c_str(), &value.get()));
    }
    void set_function(const std::string &name, Function function) {
        functions_.push_back(std::move(function));
        check_script(pf_script_set_function(get(), name.c_str(), run, &functions_.back()));
    }
    /* The function's first result; nil where it gives none. Arguments are what Values are made of. */
    template <class... Args> Value call(const std::string &function, const Args &...args) {
        return call_within(nullptr, function, args...);
    }
    /* The same within limits of this call. */
    template <class... Args>
    Value call_within(const pf_limits *limits, const std::string &function, const Args &...args) {
        const pf_value list[] = {borrowed(args)..., pf_value_nil()};
        pf_value result = pf_value_nil();
        check_script(pf_script_call(get(), function.c_str(), list,
                                    static_cast<int>(sizeof...(args)), &result, 1, limits));
        return Value(result);
    }

  private:
    static pf_value borrowed(const Value &value) {
        pf_value raw = value.get();
        raw.owned = false;
        return raw;
    }
    static int run(void *context, pf_script *, const pf_value *args, int n_args,
                   pf_value *results) {
        try {
            const Function &function = *static_cast<Function *>(context);
            const Value value = function(std::vector<pf_value>(args, args + n_args));
            return pf_value_copy(results, &value.get()) < 0 ? PF_ENOMEM : 1;
        } catch (const Error &error) {
            return pf_set_error(error.status(), error.what());
        } catch (const std::exception &error) {
            return pf_set_error(PF_EHOST, error.what());
        } catch (...) {
            return pf_set_error(PF_EHOST, "the host's function threw what is no exception");
        }
    }
    std::list<Function> functions_; /* where they lie they stay, also when this is moved */
};

} // namespace performer

#endif
