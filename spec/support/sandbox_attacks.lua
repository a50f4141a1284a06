-- sandbox_attacks.lua: scripts of strangers who mean ill, and how each of them has to end. A row is
-- { name, ends, text, limits }. ends: words of "time" (or work), "memory", "error" and "fine", of
-- which one must come true; "fine" also says that what the text asserts held. In front of each text
-- stands `local pf = require "performer"`. limits: in the place of LIMITS; where "time" is no end,
-- there is plenty of it.
local attacks = { LIMITS = { seconds = 0.1, bytes = 48 << 20 } }

-- ---- what goes on for ever ----

local FOR_EVER = {
  { "a loop", "time", [[while true do end]] },
  { "a loop of goto", "time", [[::again:: goto again]] },
  { "a loop without an end", "time", [[for _ = 1, math.huge do end]] },
  { "a loop until never", "time", [[repeat until false]] },
  { "a loop behind pcall", "time", [[while true do pcall(function() while true do end end) end]] },
  { "pcall alone", "time", [[while true do pcall(error) end]] },
  { "pcall of pcall", "time", [[while true do pcall(pcall, pcall, error) end]] },
  { "a loop in a coroutine", "time", [[coroutine.wrap(function() while true do end end)()]] },
  { "a loop in a coroutine behind pcall", "time", [[
    local function go() while true do end end
    while true do pcall(coroutine.wrap(go)) end]] },
  { "coroutines in coroutines", "time", [[
    local function deeper(n)
      if n == 0 then while true do end end
      while true do pcall(coroutine.wrap(deeper), n - 1) end
    end
    deeper(50)]] },
  { "coroutines that are made and left", "time", [[
    while true do coroutine.resume(coroutine.create(function() coroutine.yield() end)) end]] },
  { "coroutines of a few instructions", "time", [[
    while true do coroutine.wrap(function() return 1 end)() end]] },
  { "a loop in __close", "time", [[
    do local x <close> = setmetatable({}, { __close = function() while true do end end }) end]] },
  { "a loop in __close of a coroutine that a limit ended", "time", [[
    local co = coroutine.wrap(function()
      local x <close> = setmetatable({}, { __close = function() while true do end end })
      while true do end
    end)
    pcall(co)
    while true do pcall(co) end]] },
  { "a loop in __close of a coroutine that is closed", "time", [[
    local co = coroutine.create(function()
      local x <close> = setmetatable({}, { __close = function() while true do end end })
      coroutine.yield()
    end)
    coroutine.resume(co)
    coroutine.close(co)]] },
  { "a thousand __close functions that loop", "time", [[
    local meta = { __close = function() while true do end end }
    local function deeper(n)
      local x <close> = setmetatable({}, meta)
      if n > 0 then deeper(n - 1) end
      while true do end
    end
    deeper(1000)]] },
  { "a storm of __close", "time memory", [[
    local meta = { __close = function() end }
    local function deeper(n)
      local x <close> = setmetatable({}, meta)
      if n > 0 then deeper(n - 1) end
      while true do end
    end
    deeper(100000)]] },
  { "a handler that loops", "time", [[
    xpcall(function() while true do end end, function() while true do end end)]] },
  { "a handler that loops for its own error", "time", [[
    while true do xpcall(error, function() while true do end end) end]] },
  { "__index that loops", "time", [[
    local t = setmetatable({}, { __index = function(t, k) return t[k + 1] end })
    while true do pcall(function() return t[1] end) end]] },
  { "__eq, __lt and __concat that loop", "time", [[
    local meta = {}
    meta.__eq = function(a, b) while true do end end
    return setmetatable({}, meta) == setmetatable({}, meta)]] },
  { "what was thrown loops when it is told", "time", [[
    error(setmetatable({}, { __tostring = function() while true do end end }))]] },
  { "what was thrown loops when it is looked at", "time", [[
    error(setmetatable({}, { __index = function() while true do end end }))]] },
  { "pairs that never end", "time", [[
    for _ in pairs(setmetatable({}, { __pairs = function() return function() return 1 end end })) do
    end]] },
  { "collections", "time", [[while true do collectgarbage() end]] },
  { "deep recursion again and again", "time memory", [[
    local function deeper(n) return deeper(n + 1) + 1 end
    while true do pcall(deeper, 1) end]] },
  { "C functions that call each other", "time", [[
    local t = setmetatable({}, { __index = rawlen, __len = function() return 1 << 50 end })
    while true do pcall(table.concat, t) end]] },
  { "over by work alone", "time", [[while true do end]], { work = 1000000 } },
  { "pcall when work is over", "time", [[while true do pcall(string.rep, "x", 100) end]],
    { work = 1000000 } },
}

-- ---- C functions that take long ----

local LONG = {
  { "a pattern of .-", "time", [[string.find(("a"):rep(1e5), (".-"):rep(30) .. "b")]] },
  { "a pattern of a?", "time", [[
    string.find(("a"):rep(28), ("a?"):rep(28) .. ("a"):rep(28) .. "b")]] },
  { "match", "time", [[string.match(("a"):rep(1e5), ("a*"):rep(20) .. "b")]] },
  { "gmatch", "time", [[for _ in string.gmatch(("a"):rep(1e5), (".-"):rep(30) .. "b") do end]] },
  { "gsub", "time", [[string.gsub(("a"):rep(1e5), (".-"):rep(30) .. "b", "")]] },
  { "a pattern behind pcall", "time", [[
    while true do pcall(string.find, ("a"):rep(1e5), (".-"):rep(30) .. "b") end]] },
  { "a pattern by a method", "time", [[
    local text = ("a"):rep(1e5)
    return text:find((".-"):rep(30) .. "b")]] },
  { "%b over and over", "time", [[string.find(("("):rep(1e6), "%b()")]] },
  { "a capture again", "time", [[string.find(("a"):rep(1e5), "(.*)%1%1b")]] },
  { "a frontier", "time", [[string.find(("a "):rep(1e5), (".-%f[%w]"):rep(20) .. "b")]] },
  { "a set of a million", "time", [[
    string.find(("a"):rep(1e4), "[" .. ("b"):rep(1e6) .. "]*" .. ("."):rep(3) .. "x")]] },
  { "gsub that calls C", "time", [[
    local text = ("a"):rep(1e6)
    while true do text:gsub(".", pcall) end]] },
  { "gsub that calls itself", "time error", [[
    local function again(x) return (x:gsub(".", again)) end
    while true do pcall(again, "aaaa") end]] },
  { "a plain search", "time", [[
    local text, what = ("a"):rep(4e6), ("a"):rep(2e6) .. "b"
    while true do text:find(what, 1, true) end]] },
  { "rep of nothing", "fine", [[assert(string.rep("", 1 << 50) == "")]] },
  { "rep of nothing between nothing", "fine", [[assert(string.rep("", 1 << 62, "") == "")]] },
  { "rep of much", "memory error", [[string.rep("x", 1 << 30)]] },
  { "rep of too much", "error", [[string.rep("x", 1 << 62)]] },
  { "rep again and again", "time", [[while true do string.rep("x", 8e6) end]] },
  { "format of a width", "error", [[string.format("%99999d", 1)]] },
  { "format of long texts", "time", [[
    local text = ("x"):rep(4e6)
    while true do string.format("%s", text) end]] },
  { "format of a long format", "time", [[
    local text = ("%%"):rep(4e6)
    while true do string.format(text) end]] },
  { "upper, lower, reverse", "time", [[
    local text = ("x"):rep(8e6)
    while true do text:upper() text:lower() text:reverse() end]] },
  { "pack of a length", "memory error time", [[string.pack("c1000000000", "")]] },
  { "pack of many", "time", [[while true do string.pack("c4000000", "") end]] },
  { "packsize of a long format", "time error", [[
    local text = ("b"):rep(4e6)
    while true do string.packsize(text) end]] },
  { "comparison of long texts", "time", [[
    local a, b = ("x"):rep(8e6), ("x"):rep(8e6)
    while true do local _ = a == b, a < b end]] },
  { "keys of long texts", "time", [[
    local t = {}
    while true do t[("x"):rep(4e6)] = 1 end]] },
  { "numbers of long texts", "time", [[
    local text = ("1"):rep(8e6)
    while true do local _ = tonumber(text), tonumber(text, 10) end]] },
  { "utf8 of long texts", "time", [[
    local text = ("\u{20ac}"):rep(2e6)
    while true do utf8.len(text) utf8.offset(text, -1) end]] },
  { "codes of what is none", "time error", [[
    local text = "a" .. ("\x80"):rep(8e6)
    while true do for _ in utf8.codes(text) do end end]] },
  { "concat of a length that is none", "time", [[
    table.concat(setmetatable({}, { __index = rawlen, __len = function() return 1 << 60 end }))]] },
  { "concat of a table without an end", "time memory", [[
    table.concat(setmetatable({}, { __index = function() return "x" end,
                                    __len = function() return 1 << 60 end }))]] },
  { "move of a range that is none", "time", [[table.move({}, 1, 1 << 50, 2)]] },
  { "move behind pcall", "time", [[while true do pcall(table.move, {}, 1, 1 << 60, 2) end]] },
  { "insert before a length that is none", "time", [[
    table.insert(setmetatable({}, { __len = function() return 1 << 60 end }), 1, "x")]] },
  { "remove from a length that is none", "time", [[
    table.remove(setmetatable({}, { __len = function() return 1 << 60 end }), 1)]] },
  { "unpack of very many", "error", [[table.unpack({}, 1, 1e8)]] },
  { "unpack to the end of numbers", "error", [[
    table.unpack({}, math.mininteger, math.maxinteger)]] },
  { "unpack over and over", "time", [[
    local t = table.move({ 1 }, 1, 1, 500000, {})
    for i = 1, 500000 do t[i] = i end
    while true do select("#", table.unpack(t)) end]] },
  { "arguments without number", "time", [[
    local t = {}
    for i = 1, 2e5 do t[i] = i end
    local function f(...) while true do local _ = select(5, ...) end end
    f(table.unpack(t))]] },
  { "sort by an order that is none", "time error", [[
    local t = {}
    for i = 1, 1e5 do t[i] = i end
    while true do table.sort(t, function() return true end) end]] },
  { "sort by C", "time", [[
    local t = {}
    for i = 1, 1e6 do t[i] = i end
    while true do table.sort(t, math.ult) end]] },
  { "sort of a length that is none", "error time", [[
    table.sort(setmetatable({}, { __len = function() return 1 << 30 end }))]] },
  { "a table that is emptied by next", "time", [[
    local t = {}
    for i = 1, 3e5 do t["k" .. i] = 1 end
    while next(t) do t[next(t)] = nil end
    while true do end]] },
  { "names of globals when an error is told", "time", [[
    for i = 1, 1e5 do _G["k" .. i] = function() end end
    while true do pcall(string.rep) end]], { bytes = 64 << 20 } },
  { "dates", "time error", [[
    local text = ("%c"):rep(1e5)
    while true do os.date(text) end]] },
}

-- ---- compiling ----

local COMPILING = {
  { "brackets", "error", [[assert(load("x = " .. ("("):rep(1e5) .. "1" .. (")"):rep(1e5)))]] },
  { "braces", "error", [[assert(load("x = " .. ("{"):rep(1e5)))]] },
  { "functions in functions", "error", [[assert(load(("function f() "):rep(1e4)))]] },
  { "blocks in blocks", "error", [[assert(load(("do "):rep(1e5)))]] },
  { "operators in a row", "error", [[assert(load("x = " .. ("a .. "):rep(1e5) .. "a"))]] },
  { "a chain of or", "error", [[assert(load("return " .. ("a or "):rep(2e5) .. "a"))]] },
  { "a chain of elseif", "error", [[
    assert(load("if a then " .. ("elseif a then "):rep(7e4) .. "end"))]] },
  { "labels", "error", [[assert(load(("do ::a:: end goto a "):rep(2e4)))]] },
  { "chains of or, again and again", "time", [[
    local text = "return " .. ("a or "):rep(8000) .. "a"
    while true do load(text) end]] },
  { "a name of a million letters", "fine", [[assert(load(("a"):rep(1e6) .. " = 1"))]] },
  { "a text of many megabytes", "error", [[assert(load(("x = 1 "):rep(2e6)))]] },
  { "a reader without an end", "error", [[assert(load(function() return "x = 1 " end))]] },
  { "a reader in C without an end", "error time", [[assert(load(math.random))]] },
  { "a reader that loops", "time", [[load(function() while true do end end)]] },
  { "a reader that throws", "fine", [[
    local f, why = load(function() error("none", 0) end)
    assert(f == nil and why == "none")]] },
  { "compiling over and over", "time", [[while true do load("return 1") end]] },
  { "bytecode of one's own", "error", [[load(string.dump(function() end))]] },
  { "bytecode of a method", "error", [[(("x").dump)(print)]] },
  { "bytecode in a text", "fine", [[
    for _, mode in ipairs { "b", "bt", "t", "" } do
      assert(not load("\27LuaS\0\x19\x93\r\n\x1a\n", "x", mode))
    end]] },
  { "a mode that says no text", "fine", [[assert(not load("return 1", "x", "b"))]] },
}

-- ---- memory ----

local MEMORY = {
  { "a table that grows", "memory", [[local t = {} while true do t[#t + 1] = {} end]] },
  { "a table that grows behind pcall", "memory", [[
    local t = {}
    while true do pcall(function() for i = 1, 1e6 do t[#t + 1] = {} end end) end]] },
  { "a table that grows in a coroutine", "memory", [[
    local t = {}
    local function go() while true do t[#t + 1] = { {} } end end
    while true do pcall(coroutine.wrap(go)) end]] },
  { "a text that doubles", "memory", [[local s = "x" while true do s = s .. s end]] },
  { "a text that doubles behind pcall", "memory", [[
    local s = "x"
    while true do pcall(function() s = s .. s end) end]] },
  { "texts that are kept", "memory", [[
    local t = {}
    for i = 1, 1e9 do t[i] = ("x"):rep(100000) .. i end]] },
  { "gsub that grows", "memory time", [[(("x"):rep(1e6)):gsub("x", ("%0"):rep(1000))]] },
  { "concat that grows", "memory", [[
    local t = {}
    for i = 1, 1000 do t[i] = ("x"):rep(1e5) end
    table.concat(t)]] },
  { "coroutines that are kept", "memory", [[
    local t = {}
    while true do t[#t + 1] = coroutine.create(print) end]] },
  { "closures that are kept", "memory", [[
    local t = {}
    while true do t[#t + 1] = function() return t end end]] },
  { "metatables that are kept", "memory", [[
    local t = {}
    while true do t[#t + 1] = setmetatable(setmetatable({}, {}), {}) end]] },
  { "a C stack without an end", "error fine", [[
    local t = setmetatable({}, { __tostring = function(self) return tostring(self) end })
    tostring(t)]] },
  { "a stack without an end", "error time memory", [[local function f() return 1 + f() end f()]] },
  { "__close that close each other", "fine", [[
    local co
    for _ = 1, 20000 do
      local before = co
      co = coroutine.create(function()
        local x <close> = setmetatable({}, { __close = function()
          if before then coroutine.close(before) end
        end })
        coroutine.yield()
      end)
      coroutine.resume(co)
    end
    coroutine.close(co)]] },
  { "__index without an end", "error", [[
    local t = {}
    for _ = 1, 1e4 do t = setmetatable({}, { __index = t }) end
    return t.x]] },
  { "resume in resume", "error fine", [[
    local function go() return coroutine.resume(coroutine.create(go)) end
    assert(go())]] },
  { "a tensor of four gigabytes", "memory", [[pf.zeros(1 << 30)]] },
  { "tensors that are kept", "memory", [[
    local t = {}
    while true do t[#t + 1] = pf.zeros(100000) end]] },
  { "tensors behind pcall", "memory", [[while true do pcall(pf.zeros, 1 << 30) end]] },
  { "tensors and texts together", "memory", [[
    local a = pf.zeros(9 << 20)
    local t = {}
    for i = 1, 1e9 do t[i] = ("x"):rep(10000) .. i end]] },
  { "sizes that overflow", "error", [[pf.zeros(1 << 40, 1 << 40)]] },
  { "sizes that overflow at the border", "error memory", [[
    pf.zeros(math.maxinteger, math.maxinteger)]] },
  { "sizes below nothing", "error", [[pf.zeros(-1)]] },
  { "a range of very many", "memory error", [[pf.arange(1 << 40)]] },
  { "a model of very much", "memory error time", [[
    pf.nn.performer { vocab = 1 << 24, dim = 4096, layers = 1000, heads = 8 }]] },
  { "attention of a long row", "memory time", [[
    local q = pf.randn(1, 1, 100000, 8)
    pf.attention.exact(q, q, q)]] },
}

-- ---- the engine ----

local ENGINE = {
  { "a product behind pcall", "time", [[
    local a = pf.randn(256, 256)
    while true do pcall(function() a:matmul(a) end) end]] },
  { "a long product", "time", [[
    local a = pf.randn(1500, 1500)
    for _ = 1, 1000 do a:matmul(a) end]] },
  { "a long generation", "time", [[
    local model = pf.nn.performer { vocab = 256, dim = 32, layers = 1, heads = 2, causal = true }
    model:generate { prompt = pf.zeros(4, { dtype = "i32" }), tokens = 1 << 40 }]] },
  { "a map that loops", "time", [[
    local kernel = pf.kernel.custom { map = function(x) while true do end end }
    local q = pf.randn(1, 1, 4, 4)
    while true do
      pcall(pf.attention.favor, q, q, q, { kernel = kernel })
    end]] },
  { "a layer that loops", "time", [[
    local layer = pf.nn.chain { { w = pf.ones(3), forward = function() while true do end end } }
    while true do pcall(layer, pf.ones(2, 3)) end]] },
  { "recompute that loops", "time", [[
    local w = pf.randn(3):requires_grad()
    local tape <close> = pf.tape()
    while true do pcall(pf.recompute, function() while true do end end, w) end]] },
  { "a layer that yields", "error", [[
    local layer = pf.nn.chain { { w = pf.ones(3), forward = function() coroutine.yield() end } }
    assert(coroutine.resume(coroutine.create(function() layer(pf.ones(2, 3)) end)))]] },
  { "a layer that throws a tensor", "error", [[
    local layer = pf.nn.chain { { w = pf.ones(3), forward = function() error(pf.ones(2)) end } }
    layer(pf.ones(2, 3))]] },
  { "a tensor that is thrown", "error", [[error(pf.ones(2))]] },
  { "a tensor that is caught", "fine", [[
    local ok, thrown = pcall(error, pf.ones(2))
    assert(not ok and pf.kind(thrown) == "tensor" and thrown:numel() == 2)]] },
  { "a finalizer that is called", "error", [[getmetatable(pf.ones(1)).__gc(pf.ones(1))]] },
  { "a metatable that is changed", "error", [[getmetatable(pf.ones(1)).__index = nil]] },
  { "another's metatable", "error", [[setmetatable({}, getmetatable(pf.ones(1)))]] },
  { "methods of others", "fine", [[
    local model = pf.nn.linear { from = 2, to = 2 }
    local things = { model, pf.tape(), "x", 5, {}, print, pf.kernel.relu {}, nil }
    local of = { pf.ones(2), model }
    for _, owner in ipairs(of) do
      for _, name in ipairs { "matmul", "shape", "detach", "parameters", "stream", "item" } do
        local found, method = pcall(function() return owner[name] end)
        for i = 1, found and method and 8 or 0 do pcall(method, things[i], things[1], things[i]) end
      end
    end]] },
  { "a tape that is closed twice and used", "fine", [[
    local tape = pf.tape()
    local w = pf.ones(2):requires_grad()
    local loss = (w * w):sum()
    tape:close()
    tape:close()
    assert(not pcall(tape.backward, tape, loss) and not pcall(loss.item, loss))]] },
  { "finalizers where the C stack ends", "fine time memory", [[
    for _, make in ipairs { function() return pf.zeros(1000) end, pf.tape,
                            function() return pf.kernel.relu {} end } do
      local function deeper()
        pcall(deeper)
        for _ = 1, 100 do pcall(make) end
        for _ = 1, 5 do pcall(collectgarbage) end
        for _ = 1, 1000 do local _ = { {} } end
      end
      deeper()
    end]], { seconds = 0.3 } },
  { "finalizers where memory ends", "memory", [[
    local t = {}
    while true do
      for _ = 1, 10 do pf.ones(10):requires_grad() end
      t[#t + 1] = { {} }
    end]], { bytes = 8 << 20 } },
  { "a tape that stays open", "fine", [[
    tape = pf.tape()
    kept = pf.randn(100) * 2]] },
  { "a tape of a coroutine that is left", "fine", [[
    local co = coroutine.wrap(function()
      local tape <close> = pf.tape()
      local y = pf.randn(10) * 2
      coroutine.yield()
    end)
    co()
    co = nil
    collectgarbage()]] },
  { "a tape that is closed by its layer", "fine error", [[
    local tape = pf.tape()
    local layer = pf.nn.chain { { w = pf.ones(3), forward = function(_, x)
      tape:close()
      return x
    end } }
    pcall(layer, pf.ones(2, 3):requires_grad())]] },
  { "a stream in the hands of its own layer", "fine error", [[
    local stream
    local model = pf.nn.chain { pf.nn.embedding { vocab = 8, dim = 4 },
      { w = pf.ones(4), forward = function(_, x) return x end,
        step = function(_, x) stream:close() return x end } }
    pcall(function()
      stream = model:stream { batch = 1 }
      stream:feed { 1, 2, 3 }
      stream:next()
    end)]] },
  { "a cycle for a tensor", "error", [[local t = {} t[1] = t pf.tensor(t)]] },
  { "a cycle for JSON", "error", [[local t = {} t.t = t pf.json.encode(t)]] },
  { "a cycle for a model", "error", [[local t = { pf.ones(1) } t[2] = t pf.nn.chain { t }]] },
  { "a deep table for JSON", "error fine", [[
    local t = {}
    for _ = 1, 1e5 do t = { t } end
    assert(pf.json.encode(t))]] },
  { "a deep table for options", "error", [[
    local t = {}
    for _ = 1, 1e5 do t = { t } end
    pf.nn.performer { vocab = 8, dim = 8, layers = 1, heads = 1, kernel = t }]] },
  { "a deep text for JSON", "fine", [[assert(not pf.json.decode(("["):rep(1e6)))]] },
  { "long texts for JSON", "time", [[
    local text = "[" .. ("1,"):rep(5e5) .. "1]"
    while true do pf.json.decode(text) end]], { bytes = 200 << 20 } },
  { "lists for tensors", "time", [[
    local t = {}
    for i = 1, 3e5 do t[i] = i end
    while true do pf.tensor(t) end]] },
  { "tensors for lists", "time", [[
    local t = pf.zeros(300000)
    while true do t:totable() end]] },
  { "slices that overflow", "fine", [[
    local t = pf.ones(4)
    for _, n in ipairs { 1 << 62, math.maxinteger, math.mininteger, -5, 5, 2.5 } do
      for _, f in ipairs { t.slice, t.reshape, t.transpose, t.sum, t.size } do
        pcall(f, t, 1, 1, n)
        pcall(f, t, n, 1, 2)
      end
      assert(not pcall(t.slice, t, 1, n, n))
    end
    assert(not pcall(t.reshape, t, 1 << 62, 4) and t:sum():item() == 4)]] },
  { "numbers that are none", "error", [[local t = {} t[0 / 0] = 1]] },
  { "division by nothing", "error", [[return 1 // 0]] },
  { "an optimizer over and over", "time", [[
    local model = pf.nn.linear { from = 64, to = 64 }
    local opt = pf.optim.adamw(model, { lr = 1 })
    while true do
      local tape <close> = pf.tape()
      tape:backward(model(pf.ones(8, 64)):sum())
      opt:step()
    end]] },
  { "a check of gradients", "time fine", [[
    while true do pf.check.gradient(function(x) return (x * x):sum() end, { pf.randn(8) }) end]] },
}

-- ---- ways out ----

local OUT = {
  { "libraries that are not there", "fine", [[
    for _, name in ipairs { "io", "debug", "package", "dofile", "loadfile", "arg_", "jit" } do
      assert(_G[name] == nil, name)
    end
    assert(os.execute == nil and os.exit == nil and os.getenv == nil and os.remove == nil)
    assert(string.dump == nil)]] },
  { "modules of the system", "error", [[require "io"]] },
  { "modules of the binding", "error", [[require "performer.core"]] },
  { "modules of C", "error", [[require "lfs"]] },
  { "another environment", "fine", [[
    local env = load("return _ENV")()
    assert(env == _G and env.io == nil and load("return io")() == nil)
    assert(load("return x", "x", "t", { x = 4 })() == 4)
    assert(not pcall(load("return x", "x", "t", nil)))]] },
  { "the environment of the binding", "fine", [[
    setmetatable(_G, { __index = function() error "asked" end, __newindex = error })
    for _, name in ipairs { "string", "table", "math", "tostring", "pairs", "type", "select" } do
      rawset(_G, name, nil)
    end
    local text = pf.ones(3):softmax(1):shape()
    pf.kernel.relu {}
    pf.describe()]] },
  { "a finalizer", "error", [[setmetatable({}, { __gc = function() while true do end end })]] },
  { "weak keys", "error", [[setmetatable({}, { __mode = "k" })]] },
  { "weak keys, later", "error", [[local m = {} setmetatable({}, m) m.__mode = "k"]] },
  { "weak keys, by rawset", "error", [[
    local m = {} setmetatable({}, m) rawset(m, "__mode", "k")]] },
  { "weak keys, by a key that is made", "error", [[
    local m = {} setmetatable({}, m) m[table.concat { "__", "mo", "de" }] = "k"]] },
  { "weak keys, in a class", "error", [[
    local Base = {}
    Base.__index = Base
    local Class = setmetatable({}, Base)
    Class.__index = Class
    setmetatable({}, Class)
    Class.__mode = "k"]] },
  { "weak keys, in a class whose metatable changes", "error", [[
    local m = {}
    setmetatable({}, m)
    setmetatable(m, { __newindex = rawset })
    m.__mode = "k"]] },
  { "weak keys, in an environment", "error", [[
    local m = {}
    setmetatable({}, m)
    load("__mode = 'k'", "x", "t", m)()]] },
  { "weak keys, in a list of JSON", "error", [[
    local m = {}
    setmetatable({}, m)
    pf.json.list(m)
    m.__mode = "k"]] },
  { "a finalizer behind __metatable", "fine", [[
    local t = setmetatable({}, { __metatable = { __gc = function() while true do end end } })
    assert(not pcall(setmetatable, {}, getmetatable(t)))
    assert(not pcall(setmetatable, t, {}))]] },
  { "classes work as ever", "fine", [[
    local Base = {}
    Base.__index = Base
    function Base.new(class, x) return setmetatable({ x = x }, class) end
    function Base:name() return "base " .. self.x end
    local Class = setmetatable({}, { __index = Base, __call = Base.new })
    Class.__index = Class
    Class.__add = function(a, b) return a.x + b.x end
    function Class:own() return self:name() .. "!" end
    local object = Class(3)
    assert(object:own() == "base 3!" and object + object == 6)
    assert(getmetatable(object) == Class and getmetatable(Class).__index == Base)
    assert(getmetatable(Base) == nil and rawequal(setmetatable(Base, nil), Base))
    Class.__len = function() return 7 end
    assert(#object == 7 and tostring(Class):find "^table: ")
    local keys = {}
    for key in pairs(Class) do keys[#keys + 1] = key end
    table.sort(keys)
    assert(table.concat(keys, " ") == "__add __index __len own")]] },
  { "the metatable of texts", "fine", [[
    assert(getmetatable("") == nil)
    string.upper = function() return "mine" end
    assert(("x"):upper() == "X" and string.upper() == "mine")
    assert(not pcall(setmetatable, "", {}))]] },
  { "the tables of the library", "fine", [[
    pf.zeros, pf.nn, pf.kernel = nil, nil, nil
    pf.attention.favor = function() while true do end end
    pf.tokenizer.byte = nil
    table.sort, coroutine.wrap, string = nil, nil, nil]] },
  { "the program's own", "fine", [[
    for _, name in ipairs { "open", "interrupted", "term", "bench_gemm" } do
      local ok, value = pcall(function() return pf[name] end)
      assert(not ok or value == nil, name)
    end]] },
  { "an end of one's own", "error", [[pf.exit(3, "as it likes")]] },
  { "an end that is caught", "fine", [[assert(not pcall(pf.exit, 3))]] },
  { "the main coroutine", "fine", [[
    local main = coroutine.running()
    assert(not coroutine.resume(main) and not pcall(coroutine.close, main))
    assert(not pcall(coroutine.yield))]] },
  { "yields across C", "fine", [[
    for _, f in ipairs {
      function() ("x"):gsub(".", coroutine.yield) end,
      function() table.sort({ 1, 2, 3 }, coroutine.yield) end,
      function() load(coroutine.yield) end,
      function() tostring(setmetatable({}, { __tostring = coroutine.yield })) end } do
      coroutine.resume(coroutine.create(f))
    end]] },
  { "yields where Lua has them", "fine", [[
    local co = coroutine.wrap(function()
      local ok, x = pcall(function() return coroutine.yield(1) end)
      local _, y = xpcall(function() return coroutine.yield(2) end, print)
      return x + y
    end)
    assert(co() == 1 and co(10) == 2 and co(20) == 30)]] },
  { "handlers that throw", "error fine", [[
    xpcall(error, function() error() end)
    xpcall(error, error)
    xpcall(error)]] },
  { "collectors that are stopped", "error", [[collectgarbage "stop"]] },
  { "one text sorted many times", "time", [[
    local s, t = ("a"):rep(8 << 20), {}
    for i = 1, 100000 do t[i] = s end
    table.sort(t)]] },
  { "one long number, many times in a call", "error", [[
    local s, t = ("0"):rep(1 << 20) .. "65", {}
    for i = 1, 50000 do t[i] = s end
    local all = { string.char, utf8.char, math.max, math.min }
    for _, f in ipairs(all) do assert(not pcall(f, table.unpack(t))) end
    assert(not pcall(string.format, ("%d"):rep(50000), table.unpack(t)))
    assert(not pcall(string.pack, ("b"):rep(50000), table.unpack(t)))
    assert(select("#", table.unpack(t)) == table.pack(table.unpack(t)).n)
    error "all of them"]], { seconds = 10, bytes = 48 << 20 } },
  { "dates as long as texts", "error", [[os.date(("%%"):rep(1 << 20))]] },
  { "odd errors", "fine", [[
    for _, thrown in ipairs { 1, 1.5, true, {}, print, coroutine.create(print) } do
      local _, caught = pcall(error, thrown)
      assert(caught == thrown)
    end
    assert(select("#", pcall(error)) == 2)]] },
}

for _, list in ipairs { FOR_EVER, LONG, COMPILING, MEMORY, ENGINE, OUT } do
  table.move(list, 1, #list, #attacks + 1, attacks)
end

return attacks
