-- sandbox_attacks_memory.lua - attacks (sandbox_attacks.lua) on memory, and on the compiler, which
-- works before any limit of the script's own.

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
  { "names among locals of many functions", "time", [[
    local names = {}
    for i = 1, 190 do names[i] = "a" .. i end
    local level = "local " .. table.concat(names, ",") .. " return function() "
    local text = level:rep(40) .. ("B=A "):rep(2e5) .. ("end "):rep(40)
    while true do load(text) end]] },
  { "labels", "error", [[assert(load(("do ::a:: end goto a "):rep(2e4)))]] },
  { "chains of or, again and again", "time", [[
    local text = "return " .. ("a or "):rep(8000) .. "a"
    while true do load(text) end]] },
  { "a name of a million letters", "fine", [[assert(load(("a"):rep(1e6) .. " = 1"))]] },
  { "a text of many megabytes", "error", [[assert(load(("x = 1 "):rep(4e5)))]] },
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

return table.move(MEMORY, 1, #MEMORY, #COMPILING + 1, COMPILING)
