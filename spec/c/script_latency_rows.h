/*
 * script_latency_rows.h - what script_latency_test.c runs in a sandbox: { name, make, text, looks }
 * `make` runs once before, `text` over and over, and each time of it takes so many looks at least:
 * seven tenths of what it took when the row was made. 0: one look sees several times. What a
 * sandbox does not let be so large stands here as large as it may be; a row that meets a limit of
 * its own all the time holds as well.
 */
#ifndef PF_SCRIPT_LATENCY_ROWS_H
#define PF_SCRIPT_LATENCY_ROWS_H

#include <stddef.h>

static const struct {
    const char *name, *make, *text;
    long looks;
} rows[] = {

    /* ---- instructions on texts ---- */
    {"less", "s, t = (\"x\"):rep(4000000), (\"x\"):rep(4000000)",
     "local _ = s < t or s < t or s < t or s < t or s < t or s < t or s < t", 17},
    {"less, of zeros", "s, t = (\"\\0\"):rep(4000000), (\"\\0\"):rep(4000000)",
     "local _ = s < t or s < t or s < t or s < t or s < t or s < t or s < t", 17},
    {"less, of a megabyte of zeros", "s, t = (\"\\0\"):rep(1 << 20), (\"\\0\"):rep(1 << 20)",
     "local _ = s < t or s < t or s < t or s < t or s < t or s < t or s < t", 10},
    {"less, of 60 KB of zeros", "s, t = (\"\\0\"):rep(60000), (\"\\0\"):rep(60000)",
     "local _ = s < t or s < t or s < t or s < t or s < t or s < t or s < t", 0},
    {"less, of 16 KB of zeros", "s, t = (\"\\0\"):rep(16000), (\"\\0\"):rep(16000)",
     "local _ = s < t or s < t or s < t or s < t or s < t or s < t or s < t", 0},
    {"equal", "s, t = (\"x\"):rep(3999999) .. \"y\", (\"x\"):rep(3999999) .. \"z\"",
     "local _ = s == t or s == t or s == t or s == t", 14},
    {"a number of digits", "s = (\"1\"):rep(4000000)", "local _ = s + s + s + s + s + s + s + s",
     17},
    {"a number of spaces", "s = (\" \"):rep(3999999) .. \"1\"",
     "local _ = s + s + s + s + s + s + s + s", 17},
    {"a number of 60 KB", "s = (\" \"):rep(60000) .. \"1\"",
     "local _ = s + s + s + s + s + s + s + s", 0},
    {"a hexadecimal number", "s = \"0x\" .. (\"f\"):rep(3999000)",
     "local _ = s + s + s + s + s + s + s + s", 17},
    {"a small fraction", "s = \"0.\" .. (\"0\"):rep(3999000) .. \"1\"",
     "local _ = s + s + s + s + s + s + s + s", 17},
    {"a whole number", "s = (\"1\"):rep(4000000)", "pcall(function() local _ = s | 0 end)", 10},
    {"concatenation", "s = (\"x\"):rep(900000)", "local _ = s .. s .. s .. s", 8},
    {"a key", "s, t = (\"x\"):rep(4000000), (\"x\"):rep(4000000)",
     "local q = {} q[s] = 1 q[s:sub(1, -2)] = 2", 11},

    /* ---- tables and stacks ---- */
    {"next of what was emptied",
     "t = {} for i = 1, 1900000 do t[i] = 0 end for i = 1, 1900000 do t[i] = nil end",
     "local _ = next(t)", 0},
    {"many arguments", "t = {} for i = 1, 5000 do t[i] = 0 end", "select('#', table.unpack(t))", 3},
    {"many values", "t = {} for i = 1, 5000 do t[i] = 0 end", "local _ = { table.unpack(t) }", 3},
    {"calls of tables", "m = {} t = setmetatable({}, m) m.__call = t", "pcall(t)", 0},
    {"calls of tables on a wide stack",
     "m = {} t = setmetatable({}, m) m.__call = t b = {} for i = 1, 5000 do b[i] = i end "
     "function g(...) return ... end",
     "pcall(g, table.unpack(b)) pcall(t)", 0},
    {"fields of fields",
     "s = (\"x\"):rep(4000) local m = setmetatable({}, {}) setmetatable({}, m) t = m "
     "for i = 1, 1900 do t = setmetatable({ [s .. 'a'] = 1 }, { __index = t }) end "
     "setmetatable(m, { __index = t }) s = s .. 'b'",
     "local _ = t[s]", 30},
    {"new keys in a large table", "t = {} for i = 1, 500000 do t[i + 0.5] = 1 end", "t[{}] = 1", 0},
    {"tables that fill and go", NULL, "local t = {} for i = 1, 1 << 17 do t[i + 0.5] = 1 end", 70},
    {"a collector of many tables", "t = {} for i = 1, 800000 do t[i] = {} end", "local _ = {}", 0},
    {"a collector of many texts", "t = {} for i = 1, 300000 do t[i] = 'text' .. i end",
     "local _ = {}", 0},
    {"a collector of a long list", "t = {} for i = 1, 800000 do t = { t } end", "local _ = {}", 0},
    {"a collection", "t = {} for i = 1, 800000 do t[i] = {} end", "collectgarbage()", 1},
    {"a wide metatable", "m = {} for i = 1, 100000 do m['__k' .. i] = 1 end",
     "setmetatable(m, {}) setmetatable({}, m) setmetatable(m, nil)", 0},
    {"sort", "t = {} for i = 1, 1000000 do t[i] = 0 end", "pcall(table.sort, t)", 70},
    {"concat", "s = (\"x\"):rep(2000000)", "pcall(table.concat, { s, s })", 11},

    /* ---- functions of texts ---- */
    {"format of what is quoted", "s = (\"\\0\"):rep(1000000)", "pcall(string.format, '%q', s)", 4},
    {"format of floats", "t = {} for i = 1, 4900 do t[i] = 1e300 end",
     "pcall(string.format, ('%99.99f'):rep(4900), table.unpack(t))", 9},
    {"format of a long text", "s = (\" \"):rep(4000000)",
     "pcall(string.format, s) pcall(string.pack, s) pcall(string.packsize, s) "
     "pcall(string.unpack, s, s)",
     23},
    {"unpack", "s = (\"b\"):rep(5000)", "pcall(string.unpack, s, s)", 2},
    {"codepoints", "s = (\"a\"):rep(5000)",
     "pcall(utf8.codepoint, s, 1, -1) pcall(string.byte, s, 1, -1)", 1},
    {"an offset", "s, t = (\"\\x80\"):rep(4000000), (\"a\"):rep(4000000)",
     "pcall(utf8.offset, s, -1) pcall(utf8.offset, t, 4000000)", 14},
    {"codes", "s = \"a\" .. (\"\\x80\"):rep(3999999)",
     "pcall(function() for _ in utf8.codes(s, true) do end end)", 14},
    {"len", "s = (\"a\"):rep(4000000)", "utf8.len(s)", 8},
    {"rep", NULL, "pcall(string.rep, 'x', 4000000)", 10},
    {"case and order", "s, t = (\"x\"):rep(4000000), (\"x\"):rep(4000000)",
     "s:lower() s:upper() s:reverse()", 17},
    {"find", "s, t = (\"a\"):rep(4000000), (\"a\"):rep(2000000) .. \"b\"",
     "s:find(t, 1, true) s:find('b')", 70},
    {"gsub", "s, t = (\"x\"):rep(4000000), (\"x\"):rep(4000000)",
     "pcall(string.gsub, s, '$', 'z') pcall(string.gsub, s, '.*', '%0%0')", 70},
    {"captures", "s, t = (\"x\"):rep(4000000), (\"x\"):rep(4000000)",
     "pcall(string.match, s, '^((((((((.*))))))))$')", 70},
    {"tonumber", "s = (\" \"):rep(3999999) .. \"1\"", "tonumber(s) tonumber(s, 36)", 11},
    {"math", "s = (\" \"):rep(3999999) .. \"1\"",
     "pcall(math.abs, s) pcall(math.random, s, s) pcall(math.fmod, s, s)", 17},
    {"times",
     "s = (\" \"):rep(3999999) .. \"1\" t = { year = s, month = s, day = s, hour = "
     "s, min = s, sec = s }",
     "pcall(os.time, t) pcall(os.date, '!%c', s)", 11},
    {"a date's format", "s = ('%c'):rep(2048)", "pcall(os.date, s, 0)", 1},
    {"an error", "s, t = (\"x\"):rep(4000000), (\"x\"):rep(4000000)",
     "pcall(error, s, 2) pcall(assert, false, s)", 11},

    /* ---- the parser ---- */
    {"locals",
     "local n = {} for i = 1, 199 do n[i] = 'a' .. i end local names = "
     "table.concat(n, ',') s = 'local ' .. names .. ' ' .. ('B=A '):rep(200000)",
     "load(s)", 70},
    {"locals of many functions",
     "local n = {} for i = 1, 190 do n[i] = 'a' .. i end local names = "
     "table.concat(n, ',') s = ('local ' .. names .. ' return function() '):rep(40) "
     ".. ('B=A '):rep(200000) .. ('end '):rep(40)",
     "load(s)", 70},
    {"many globals",
     "local n = {} for i = 1, 199 do n[i] = 'a' .. i end local names = "
     "table.concat(n, ',') local g = {} for i = 1, 80000 do g[i] = 'x' .. i .. '=y "
     "' end s = 'local ' .. names .. ' ' .. table.concat(g)",
     "load(s)", 70},
    {"constants",
     "local g = {} for i = 1, 100000 do g[i] = i .. ',' end s = 'return {' .. "
     "table.concat(g) .. '}'",
     "load(s)", 70},
    {"constants of locals", "s = ('local a <const> = 1 '):rep(190) .. ('b=a '):rep(200000)",
     "load(s)", 70},
    {"jumps", "s = 'return ' .. ('a==b and '):rep(5000) .. 'a'", "load(s)", 70},
    {"labels",
     "local g = {} for i = 1, 5000 do g[i] = '::a' .. i .. '::' end s = "
     "table.concat(g)",
     "load(s)", 0},
    {"functions", "s = ('f=function() end '):rep(50000)", "load(s)", 70},
    {"a name", "s, t = (\"x\"):rep(4000000), (\"x\"):rep(4000000)",
     "load('x=', s) load('x=', 'a', s)", 14},
    {"a reader", NULL,
     "local n = 0 load(function() n = n + 1 return n < 100000 and 'x' or nil end)", 70},

    /* ---- performer ---- */
    {"JSON of numbers", "s = '[' .. ('1.5,'):rep(900000) .. '1]'", "pf.json.decode(s)", 70},
    {"JSON of lists", "s = '[' .. ('[],'):rep(500000) .. '1]'", "pf.json.decode(s)", 70},
    {"elements one by one", "t, s = pf.zeros(3000000, { dtype = 'i32' }), ('\\0'):rep(4000000)",
     "pf.randperm(3000000) t:one_hot(2) pf.frombytes(s, 'f16', { 2000000 })", 70},
    {"a number for ever", "t = pf.zeros(1, { dtype = 'i32' }):expand(1 << 40)",
     "t:any(1) t:sum(1) t:argmax(1)", 4},
    {"JSON of a text", "s = '\\\"' .. ('\\\\u00e9'):rep(600000) .. '\\\"'", "pf.json.decode(s)",
     11},
    {"JSON of spaces", "s = (' '):rep(3999999) .. '1'", "pf.json.decode(s)", 10},
    {"JSON of keys", "t = {} for i = 1, 16000 do t['k' .. i] = i end",
     "pf.json.decode(pf.json.encode(t))", 35},
    {"JSON from numbers", "t = {} for i = 1, 200000 do t[i] = i + 0.1 end",
     "pcall(pf.json.encode, t)", 70},
    {"JSON from texts", "s, t = (\"x\"):rep(4000000), (\"\\1\"):rep(600000)",
     "pcall(pf.json.encode, { s, t })", 11},
    {"JSON from many keys", "t = {} for i = 1, 300000 do t['k' .. i] = 1 end",
     "pcall(pf.json.encode, t)", 70},
    {"options", "t = {} for i = 1, 300000 do t['k' .. i] = 1 end",
     "pcall(pf.nn.linear, t) pcall(pf.nn.performer, { kernel = t })", 70},
    {"names", "s, t = (\"x\"):rep(4000000), (\"x\"):rep(4000000)",
     "pcall(function() return pf[s] end) pcall(pf.nn.linear, { [s] = 1 }) "
     "pcall(pf.nn.build, { type = s })",
     70},
    {"a path", "s, t = (\"x\"):rep(4000000), (\"x\"):rep(4000000)", "pcall(pf.load, s)", 14},
    {"a tensor of a table", "t = {} for i = 1, 1000000 do t[i] = i end", "pf.tensor(t)", 1},
    {"a table of a tensor", "t = pf.zeros(1000000)", "t:totable() t:tobytes() tostring(t)", 4},
    {"tokens", "s, t = (\"x\"):rep(4000000), (\"x\"):rep(4000000) k = pf.tokenizer.byte()",
     "pcall(k.encode, k, s)", 11},
    {"items", "t = pf.randn(3000, 16) k = pf.attention.items { dim = 16 }",
     "k:add(t) k:probability(t, t, { estimate = true })", 70},
};

#endif
