/*
 * endings.cpp - a C++ host: reads a prompt once, and writes several endings of it, each by a
 * thread with an engine of its own. The threads share the model's weights; each copies the state
 * that the prompt left through a file, as a host would that keeps conversations.
 *
 *   endings MODEL "The prompt" [HOW MANY]
 */
#include "performer.hpp"

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include <unistd.h>

namespace {

/* Texts of a byte model. */
std::vector<std::int32_t> ids_of(const std::string &text) {
    std::vector<std::int32_t> ids;
    for (unsigned char c : text) ids.push_back(c);
    return ids;
}

/* What follows the state in `file`, by an engine of this thread's own. */
std::string ending(const performer::Model &model, const std::string &file, int number) {
    performer::Engine engine;
    performer::Stream stream = performer::Stream::load(engine, model, file);
    const pf_sampling sampling = performer::sampling(0.8, std::uint64_t(number));
    std::string text;
    std::int32_t token = stream.sample(sampling);
    for (int i = 0; i < 80 && token != '\n'; i++) {
        if (token < 256) text += char(token);
        token = stream.next(token, sampling);
    }
    return text;
}

void run(const std::string &folder, const std::string &prompt, int count) {
    performer::Engine engine;
    performer::Model model(engine, folder);
    performer::Stream stream(engine, model);
    stream.feed(ids_of(prompt));
    const std::string file = "endings-" + std::to_string(::getpid()) + ".state";
    stream.save(file);

    std::vector<std::string> texts(static_cast<std::size_t>(count));
    std::vector<std::exception_ptr> failures(texts.size());
    std::vector<std::thread> threads;
    for (int i = 0; i < count; i++) {
        threads.emplace_back([&, i] {
            try {
                texts[std::size_t(i)] = ending(model, file, i + 1);
            } catch (...) {
                failures[std::size_t(i)] = std::current_exception();
            }
        });
    }
    for (auto &thread : threads) thread.join();
    std::remove(file.c_str());
    for (auto &failure : failures) {
        if (failure) std::rethrow_exception(failure);
    }
    for (const auto &text : texts) std::cout << prompt << text << '\n';
}

} // namespace

int main(int argc, char **argv) {
    const int count = argc > 3 ? std::atoi(argv[3]) : 3;
    if (argc < 3 || argc > 4 || count < 1 || count > 64) {
        std::cerr << "usage: endings MODEL PROMPT [1 to 64]\n";
        return 2;
    }
    try {
        run(argv[1], argv[2], count);
    } catch (const performer::Error &error) {
        std::cerr << "endings: " << error.name() << ": " << error.what() << '\n';
        return 1;
    }
    return 0;
}
