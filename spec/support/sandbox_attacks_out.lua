-- sandbox_attacks_out.lua - attacks (sandbox_attacks.lua) that look for a way out: to libraries, to
-- the binding's own, to finalizers and collectors.
return {
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
    local s, t = ("a"):rep(4 << 20), {}
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
