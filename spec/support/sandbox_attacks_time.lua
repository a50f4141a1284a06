-- sandbox_attacks_time.lua - attacks (sandbox_attacks.lua) on time: what goes on for ever, and C
-- functions that take long.

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
  { "rep again and again", "time", [[while true do string.rep("x", 4e6) end]] },
  { "format of a width", "error", [[string.format("%99999d", 1)]] },
  { "format of long texts", "time", [[
    local text = ("x"):rep(4e6)
    while true do string.format("%s", text) end]] },
  { "format of a long format", "time", [[
    local text = ("%%"):rep(32000)
    while true do string.format(text) end]] },
  { "formats as long as texts", "error", [[
    local text = (" "):rep(2e6)
    for _, f in ipairs { string.format, string.pack, string.packsize, string.unpack } do
      assert(not pcall(f, text, text))
    end
    error "all of them"]] },
  { "quoted zeros", "error", [[string.format("%q", ("\0"):rep(4e6))]] },
  { "comparisons of zeros", "time", [[
    local a, b = ("\0"):rep(4e6), ("\0"):rep(4e6)
    while true do local _ = a < b or a < b or a < b or a < b or a < b or a < b or a < b end]] },
  { "comparisons of many zeros", "time", [[
    local a, b = ("\0"):rep(30000), ("\0"):rep(30000)
    while true do local _ = a < b or a < b or a < b or a < b or a < b or a < b or a < b end]] },
  { "upper, lower, reverse", "time", [[
    local text = ("x"):rep(4e6)
    while true do text:upper() text:lower() text:reverse() end]] },
  { "pack of a length", "memory error time", [[string.pack("c1000000000", "")]] },
  { "pack of many", "time", [[while true do string.pack("c4000000", "") end]] },
  { "packsize of a long format", "time error", [[
    local text = ("b"):rep(4e6)
    while true do string.packsize(text) end]] },
  { "comparison of long texts", "time", [[
    local a, b = ("x"):rep(4e6), ("x"):rep(4e6)
    while true do local _ = a == b, a < b end]] },
  { "keys of long texts", "time", [[
    local t = {}
    while true do t[("x"):rep(4e6)] = 1 end]] },
  { "numbers of long texts", "time", [[
    local text = ("1"):rep(4e6)
    while true do local _ = tonumber(text), tonumber(text, 10) end]] },
  { "utf8 of long texts", "time", [[
    local text = ("\u{20ac}"):rep(1e6)
    while true do utf8.len(text) utf8.offset(text, -1) end]] },
  { "codes of what is none", "time error", [[
    local text = "a" .. ("\x80"):rep(4e6)
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
    local t = {}
    for i = 1, 5e3 do t[i] = i end
    while true do select("#", table.unpack(t)) end]] },
  { "arguments without number", "time", [[
    local t = {}
    for i = 1, 5e3 do t[i] = i end
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
  { "a table that is called in its own place", "memory", [[
    local mt = {}
    local t = setmetatable({}, mt)
    mt.__call = t
    pcall(t)]] },
  { "a table that is called in its own place, on a wide stack", "memory", [[
    local mt, t = {}, {}
    for i = 1, 5e3 do t[i] = i end
    local function f(...) return ... end
    f(table.unpack(t))
    local c = setmetatable({}, mt)
    mt.__call = c
    while true do pcall(c) end]] },
  { "__index of metatables without an end", "time error", [[
    local a, b, m = ("x"):rep(4000) .. "a", ("x"):rep(4000) .. "b", {}
    setmetatable({}, m)
    local t = m
    for i = 1, 1900 do t = setmetatable({ [a] = 1 }, { __index = t }) end
    setmetatable(m, { __index = t })
    while true do pcall(function() return t[b] end) end]] },
  { "dates", "time error", [[
    local text = ("%c"):rep(1e5)
    while true do os.date(text) end]] },
}

return table.move(LONG, 1, #LONG, #FOR_EVER + 1, FOR_EVER)
