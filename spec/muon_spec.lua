-- Muon: matrices of linear layers against the formula in doubles, which parameters those are, and
-- bits for any number of threads.
local pf = require "performer"
require "spec.support"
local child = require "spec.support.child"

-- ---- the formula ----

local function product(a, b)
  local c = {}
  for i = 1, #a do
    c[i] = {}
    for j = 1, #b[1] do
      local sum = 0
      for k = 1, #b do sum = sum + a[i][k] * b[k][j] end
      c[i][j] = sum
    end
  end
  return c
end

local function map(f, a, b)
  local c = {}
  for i = 1, #a do
    c[i] = {}
    for j = 1, #a[1] do c[i][j] = f(a[i][j], b and b[i][j]) end
  end
  return c
end

local function transposed(a)
  local t = {}
  for j = 1, #a[1] do
    t[j] = {}
    for i = 1, #a do t[j][i] = a[i][j] end
  end
  return t
end

local function orthogonal(u, iterations)
  local sum = 0
  map(function(x) sum = sum + x * x end, u)
  local x = map(function(v) return v / math.sqrt(sum) end, u)
  for _ = 1, iterations do
    local a = product(x, transposed(x))
    local mix = map(function(one, two) return -4.7750 * one + 2.0315 * two end, a, product(a, a))
    x = map(function(v, w) return 3.4445 * v + w end, x, product(mix, x))
  end
  return x
end

--- One step of s = { p, m }, matrices, with gradient g.
local function step(s, g, o)
  s.m = map(function(m, x) return o.momentum * m + (1 - o.momentum) * x end, s.m, g)
  local u = s.m
  if o.nesterov then
    u = map(function(m, x) return o.momentum * m + (1 - o.momentum) * x end, s.m, g)
  end
  local x = orthogonal(u, o.iterations)
  local scale = 0.2 * math.sqrt(math.max(#g, #g[1]))
  s.p = map(function(p, y) return p - o.lr * (scale * y + o.decay * p) end, s.p, x)
end

-- ---- layers ----

--- A linear layer, and a function that gives it a gradient 2 (w - 0.2) and returns that.
local function layer(from, to)
  local model = pf.nn.linear { from = from, to = to, bias = false }
  local w = model:tensors().weight
  return model, w, function()
    local tape <close> = pf.tape()
    local apart = w - 0.2
    tape:backward((apart * apart):sum())
    return map(function(x) return 2 * x end, apart:totable())
  end
end

describe("muon", function()
  for _, case in ipairs { { 5, 3 }, { 3, 5 }, { 4, 4 }, { 6, 1 }, { 1, 6 }, { 130, 20 } } do
    it(("makes the mean gradient orthogonal: %d to %d"):format(case[1], case[2]), function()
      for _, nesterov in ipairs { true, false } do
        pf.seed(3)
        local o = { lr = 0.05, decay = 0.3, momentum = 0.8, nesterov = nesterov, iterations = 4 }
        local model, w, walk = layer(case[1], case[2])
        local opt = pf.optim.muon(model, o)
        local s = { p = w:totable(), m = map(function() return 0 end, w:totable()) }
        for _ = 1, 3 do
          step(s, walk(), o)
          opt:step {}
          assert.near_tensor(s.p, w, 2e-5)
        end
      end
    end)
  end

  it("takes singular values to about one", function()
    local x = orthogonal({ { 3, 1 }, { 1, 0.5 } }, 5)
    local gram = product(x, transposed(x))
    assert.near(1, gram[1][1], 0.5)
    assert.near(1, gram[2][2], 0.5)
    assert.near(0, gram[1][2], 0.2)
  end)

  it("leaves a matrix without a gradient to its decay", function()
    local model, w = layer(3, 2)
    local before, opt = w:totable(), pf.optim.muon(model, { lr = 0.1, decay = 0.5 })
    do
      local tape <close> = pf.tape()
      tape:backward((w * 0):sum())
    end
    opt:step {}
    assert.near_tensor(map(function(p) return 0.95 * p end, before), w, 1e-6)
  end)

  --- Which of a model's parameters move as with AdamW.
  local function as_adamw(options)
    local function moved(kind, more)
      pf.seed(5)
      local model = pf.nn.performer { vocab = 11, dim = 16, layers = 1, heads = 2, length = 8,
                                      causal = true, conv = 3, tied = false,
                                      positions = "learned" }
      local opt = pf.optim[kind](model, more)
      local ids = pf.tensor({ { 1, 2, 3, 4, 5, 6, 7, 8 } }, { dtype = "i32" })
      do
        local tape <close> = pf.tape()
        tape:backward(model(ids):cross_entropy(ids))
      end
      opt:step { lr = 0.01 }
      return model:tensors()
    end
    local found, reference = {}, moved("adamw")
    for name, tensor in pairs(moved("muon", options)) do
      found[name] = tensor:tobytes() == reference[name]:tobytes()
    end
    return found
  end

  it("goes by AdamW for tables, the head, convolutions and vectors", function()
    local same = as_adamw()
    for name, equal in pairs(same) do
      local linear = name:find "^blocks" and name:find "%.weight$" and not name:find "norm"
        and not name:find "conv"
      assert.equal(not linear, equal, name)
    end
    assert.is_true(same["head.weight"] and same["embedding.weight"])
  end)

  it("takes other matrices where options and groups say so", function()
    for _, equal in pairs(as_adamw { orthogonal = "none" }) do assert.is_true(equal) end
    local same = as_adamw { groups = { { match = "mlp", orthogonal = "none" },
                                       { match = "head", orthogonal = "all" } } }
    assert.is_true(same["blocks.1.mlp.up.weight"])
    assert.is_false(same["head.weight"])
    assert.is_false(same["blocks.1.attention.qkv.weight"])
  end)

  it("leaves to AdamW what a linear layer shares with another", function()
    local function after(kind, shares)
      pf.seed(2)
      local inner = pf.nn.linear { from = 3, to = 3, bias = false }
      local w = inner:tensors().weight
      local model = pf.nn.module { inner = inner, table = shares and w or nil,
                                   forward = function(self, x) return self.inner(x) end }
      local opt = pf.optim[kind](model)
      do
        local tape <close> = pf.tape()
        tape:backward((w * w):sum())
      end
      opt:step { lr = 0.1 }
      return w
    end
    assert.bits_equal(after("adamw", true), after("muon", true))
    assert.is_true(after("adamw"):tobytes() ~= after("muon"):tobytes())
  end)

  it("takes queries, keys and values as a matrix each", function()
    local o = { lr = 0.05, decay = 0, momentum = 0.8, nesterov = true, iterations = 5 }
    local model = pf.nn.attention { dim = 8, heads = 4, kv_heads = 2, kernel = "relu" }
    local w = model:tensors()["qkv.weight"]
    local opt, before, g = pf.optim.muon(model, o), w:totable(), pf.randn(16, 8)
    do
      local tape <close> = pf.tape()
      tape:backward((w * g):sum())
    end
    opt:step {}
    local want, at = {}, 0
    for _, rows in ipairs { 8, 4, 4 } do
      local s = { p = table.move(before, at + 1, at + rows, 1, {}) }
      s.m = map(function() return 0 end, s.p)
      step(s, table.move(g:totable(), at + 1, at + rows, 1, {}), o)
      table.move(s.p, 1, rows, at + 1, want)
      at = at + rows
    end
    assert.near_tensor(want, w, 2e-5)
  end)

  it("has the same bits for any number of threads", function()
    local code = [[
      pf.seed(1)
      local model = pf.nn.linear { from = 300, to = 700 }
      local opt = pf.optim.muon(model, { lr = 0.1 })
      for _ = 1, 2 do
        do
          local tape <close> = pf.tape()
          tape:backward(model(pf.randn(4, 300)):square():sum())
        end
        opt:step {}
      end
      local bytes, sum = model:tensors().weight:tobytes(), 0
      for at = 1, #bytes, 8 do sum = sum * 31 + string.unpack("i8", bytes, at) end
      print(sum)
    ]]
    local one = child.run(code, "{threads = 1}")
    for n = 2, 3 do assert.equal(one, child.run(code, ("{threads = %d}"):format(n)), n) end
  end)
end)
