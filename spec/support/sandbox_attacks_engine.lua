-- sandbox_attacks_engine.lua - attacks (sandbox_attacks.lua) on the engine: its time, its objects
-- in the hands of others, and what overflows.
return {
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
  { "long lists for JSON", "time", [[
    local t = {}
    for i = 1, 3e5 do t[i] = i + 0.1 end
    while true do pcall(pf.json.encode, t) end]], { bytes = 200 << 20 } },
  { "a map of many keys", "error", [[
    local t = {}
    for i = 1, 20000 do t["k" .. i] = i end
    pf.json.encode(t)]] },
  { "plain data past the budget", "memory", [[
    local t = {}
    for i = 1, 4e5 do t[i] = 0 end
    pf.json.encode(t)]], { bytes = 40 << 20 } },
  { "memory that is not its own", "fine", [[
    local before = pf.memory().live
    local t = pf.zeros(100000)
    local now = pf.memory().live
    assert(now - before > 400000 and now < 8 << 20, before .. " " .. now)
    assert(pf.info().live < 8 << 20)]] },
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
