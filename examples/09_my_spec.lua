--- 09_my_spec.lua - specs for a kernel, a layer and a model of one's own, with busted.
--
--   lua5.4 $(command -v busted) examples/09_my_spec.lua
--
-- From the root, .busted says where `performer` is; elsewhere set LUA_PATH and LUA_CPATH.
local pf = require "performer"
local nn = pf.nn
pf.open { seed = 9 }

-- What is tried here would be required from files of your own: a kernel ...
local shares = pf.kernel.custom {
  map = function(x) return pf.concat({ x:softmax(-1), (-x):softmax(-1) }, -1) end,
}

-- ... a layer, which mixes in a running mean of what came before, through a gate ...
local function memory(dim)
  local layer = { name = "memory", gate = nn.linear { from = dim, to = dim } }
  local function mix(self, x, mean) return x + self.gate(x):sigmoid() * mean end
  function layer:forward(x) -- (B, L, D)
    local B, L = x:size(1), x:size(2)
    local ones = pf.ones(B, 1, L, 1) -- equal weights: the mean of all so far
    local mean = pf.attention.linear(ones, ones, x:reshape(B, 1, L, dim), { causal = true })
    return mix(self, x, mean:reshape(B, L, dim))
  end
  function layer:step(x, state) -- (B, D), a position
    state.sum, state.n = (state.sum and state.sum + x or x):detach(), (state.n or 0) + 1
    return mix(self, x, state.sum / state.n)
  end
  return layer
end
nn.define("memory", function() return memory(16) end) -- how a checkpoint's is made again

-- ... and a model.
local function new_model()
  return nn.chain {
    nn.embedding { vocab = 11, dim = 16 }, memory(16),
    nn.block { dim = 16, heads = 2, causal = true, kernel = { name = "softmax", features = 16 } },
    nn.linear { from = 16, to = 11 },
  }
end

describe("the kernel", function()
  it("does what its formula says, at once, causally and in a stream", function()
    local report = pf.check.kernel(shares, { head_dim = 6 })
    assert.is_true(report.causal < 1e-5)
  end)

  it("has the gradient of its formula", function()
    local function attend(q, k, v) return pf.attention.favor(q, k, v, { kernel = shares }) end
    pf.check.gradient(attend, { pf.randn(1, 2, 5, 6), pf.randn(1, 2, 5, 6), pf.randn(1, 2, 5, 3) })
  end)
end)

describe("the layer", function()
  local layer, x = nn.module(memory(16)), pf.randn(2, 12, 16)

  it("has right gradients, for its input and its weights", function()
    local inputs = layer:parameters()
    table.insert(inputs, x)
    pf.check.gradient(function() return layer(x):square():sum() end, inputs)
  end)

  it("steps as it runs, sees nothing ahead, and is saved", function()
    pf.check.streaming(layer, x)
    pf.check.bits(layer, x)
    pf.check.saved(layer, x)
  end)
end)

describe("the model", function()
  local ids = pf.tensor({ { 1, 2, 3, 4, 5, 6, 7, 8 }, { 9, 10, 0, 5, 5, 2, 1, 3 } },
    { dtype = "i32" })

  it("streams, keeps its bits, and comes back from a checkpoint", function()
    assert.is_true(pf.check.streaming(new_model(), ids) < 1e-5)
    pf.check.bits(new_model(), ids)
    pf.check.saved(new_model(), ids)
  end)
end)
