/*
 * chooser.cpp - a C++ host that serves and runs scripts: a running batch writes several texts after a
 * prompt at once, a Lua script says how good each is, and the best is printed.
 *
 *   chooser MODEL SCRIPT.lua "The prompt" [HOW MANY]
 *
 * The script has `function score(text) ... return number end`, and may call host.count(text, letter).
 */
#include "performer_lua.hpp"

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <map>
#include <string>
#include <vector>

namespace {

/* Texts of a byte model, all in one batch. */
std::vector<std::string> write(const performer::Engine &engine, const performer::Model &model,
                               const std::string &prompt, int count) {
    performer::Serving serving(engine, model);
    std::map<std::int64_t, std::string> texts;
    std::vector<std::int32_t> ids;
    for (unsigned char c : prompt) ids.push_back(c);
    for (int i = 0; i < count; i++) {
        const pf_sampling sampling = performer::sampling(0.8, std::uint64_t(i + 1));
        texts[serving.join(ids, performer::sequence(80, &sampling))] = prompt;
    }
    while (serving.count() > 0) {
        for (const pf_served &made : serving.step()) {
            if (made.token >= 0 && made.token < 256) texts[made.id] += char(made.token);
            if (made.end) serving.leave(made.id);
        }
    }
    std::vector<std::string> list;
    for (const auto &text : texts) list.push_back(text.second);
    return list;
}

performer::Value count_letter(const std::vector<pf_value> &args) {
    if (args.size() != 2) throw std::invalid_argument("host.count(text, letter) takes two texts");
    const std::string text = performer::Value(args[0]).text();
    const std::string letter = performer::Value(args[1]).text();
    return std::int64_t(std::count(text.begin(), text.end(), letter.empty() ? ' ' : letter[0]));
}

void run(const std::string &folder, const std::string &file, const std::string &prompt, int count) {
    performer::Engine engine;
    performer::Model model(engine, folder);
    performer::Script script(engine);
    script.set_function("host.count", count_letter);
    script.load_file(file);
    double best = 0;
    std::string chosen;
    for (const std::string &text : write(engine, model, prompt, count)) {
        const double score = script.call("score", text).number();
        if (chosen.empty() || score > best) best = score, chosen = text;
    }
    std::cout << chosen << '\n';
}

} // namespace

int main(int argc, char **argv) {
    const int count = argc > 4 ? std::atoi(argv[4]) : 4;
    if (argc < 4 || argc > 5 || count < 1 || count > 64) {
        std::cerr << "usage: chooser MODEL SCRIPT.lua PROMPT [1 to 64]\n";
        return 2;
    }
    try {
        run(argv[1], argv[2], argv[3], count);
    } catch (const std::exception &error) {
        std::cerr << "chooser: " << error.what() << '\n';
        return 1;
    }
    return 0;
}
