-- hidden_spec.lua - model:hidden: what stands behind a model's blocks is the source of its logits,
-- the same as walking the layers one by one, and differentiable.
local pf = require "performer"
require "spec.support"
local nn = pf.nn

describe("hidden", function()
  local ids = pf.tensor({ { 1, 2, 3, 4, 5 }, { 5, 6, 7, 8, 0 } }, { dtype = "i32" })
  local mask = pf.tensor({ { 1, 1, 1, 1, 1 }, { 1, 1, 1, 1, 0 } }, { dtype = "i32" })

  local function model(options)
    options = options or {}
    for name, value in pairs { vocab = 9, dim = 8, layers = 3, heads = 2 } do
      options[name] = value
    end
    return nn.performer(options)
  end

  it("is what the head reads", function()
    for _, options in ipairs { {}, { causal = true }, { tied = false }, { reversible = true },
                               { recompute = true }, { positions = "learned" } } do
      local m = model(options)
      local h = m:hidden(ids, { mask = mask })
      assert.same({ 2, 5, 8 }, h:shape())
      local table_of = m:tensors()["head.weight"] or m:tensors()["embedding.weight"]
      assert.bits_equal(m(ids, { mask = mask }), h:linear(table_of))
    end
  end)

  it("of a block is what its layers give one by one", function()
    for _, options in ipairs { {}, { shared = true }, { residual = "post" } } do
      local m = model(options)
      local h = m:children()[1](ids)
      for i, block in ipairs(m:children()[2]:children()) do
        h = block(h)
        assert.bits_equal(h, m:hidden(ids, nil, i))
      end
    end
  end)

  it("goes on from what rows went on from, of any block, and leaves it at one place", function()
    local m = model { causal = true, conv = 3, token_shift = true,
                      kernel = { name = "softmax", features = 8, seed = 2 } }
    for block = 1, 3 do
      local whole, carry = m:hidden(ids, nil, block), m:carry { batch = 2 }
      local first = m:hidden(ids:slice(2, 1, 2), { carry = carry }, block)
      local second = m:hidden(ids:slice(2, 3, 4), { carry = carry }, block)
      assert.near_tensor(whole:slice(2, 1, 4), pf.concat({ first, second }, 2), 1e-5)
      assert.near_tensor(m(ids):slice(2, 5, 5), m(ids:slice(2, 5, 5), { carry = carry }), 1e-5)
    end
  end)

  it("stands for a batch as for its input, and has gradients", function()
    local m = model()
    assert.bits_equal(m:hidden(ids, nil, 2), m:hidden({ input = ids }, nil, 2))
    pf.check.gradient(function() return (m:hidden(ids) + 1):pow(3):sum() end, m)
  end)

  it("is refused where there is no such block", function()
    assert.raises("behind block 4 are asked for; there are 3 blocks",
                  function() model():hidden(ids, nil, 4) end)
    assert.raises("blocks count from 1, got 0", function() model():hidden(ids, nil, 0) end)
    assert.raises("between reversible blocks no states can be had",
                  function() model { reversible = true }:hidden(ids, nil, 1) end)
    assert.raises("chain has no block 1", function()
      nn.chain { nn.layernorm(4) }:hidden(pf.zeros(2, 4), nil, 1)
    end)
  end)
end)
