-- add_norm_spec.lua - a sum and its norm in one op, as a block uses it: the bits of its parts,
-- and no more memory than the gradients themselves. Values, gradients and errors of the op
-- stand in ops_spec, its bits on every kernel level in spec/c/add_norm_test.c.
local pf = require "performer"
require "spec.support"

local nn = pf.nn

--- A block, and its parts by name with the same weights.
local function block_and_parts(norm)
  local options = { dim = 12, heads = 3, kernel = "exact", causal = true }
  local parts = { norm1 = nn[norm](12), norm2 = nn[norm](12), mlp = nn.mlp { dim = 12 },
                  attention = nn.attention(options) }
  options.norm = norm
  local block = nn.block(options)
  for name, t in pairs(block:tensors()) do
    local part, rest = name:match "^(%w+)%.(.+)$"
    if part:find "norm" then t:copy_(pf.randn(12)) end
    parts[part]:tensors()[rest]:copy_(t)
  end
  return block, parts
end

describe("a block", function()
  for _, norm in ipairs { "layernorm", "rmsnorm" } do
    it("with " .. norm .. " is its parts around two residuals, to the bit", function()
      local block, parts = block_and_parts(norm)
      local x = pf.randn(2, 5, 12)
      local h = x + parts.attention(parts.norm1(x))
      assert.bits_equal(h + parts.mlp(parts.norm2(h)), block(x))
    end)

    it("with " .. norm .. " streams as its parts do", function()
      local block, parts = block_and_parts(norm)
      local state, inner = block:state { batch = 2 }, {}
      for _, name in ipairs { "attention", "mlp" } do
        inner[name] = parts[name]:state { batch = 2 }
      end
      local x = pf.randn(2, 4, 12)
      local h = x + parts.attention:prefill(parts.norm1(x), inner.attention)
      local y = h + parts.mlp:prefill(parts.norm2(h), inner.mlp)
      assert.bits_equal(y, block:prefill(x, state))
      for t = 1, 3 do
        x = pf.randn(2, 12)
        h = x + parts.attention:step(parts.norm1(x), inner.attention)
        y = h + parts.mlp:step(parts.norm2(h), inner.mlp)
        assert.bits_equal(y, block:step(x, state), "step " .. t)
      end
      assert.equal(7, state:position())
    end)

    it("with " .. norm .. " has its parts' gradients, to the bit", function()
      local block, parts = block_and_parts(norm)
      local x, seed = pf.randn(2, 5, 12), pf.randn(2, 5, 12)
      local a, b = x:detach():requires_grad(), x:detach():requires_grad()
      do
        local tape <close> = pf.tape()
        tape:backward(block(a), seed)
      end
      do
        local tape <close> = pf.tape()
        local h = b + parts.attention(parts.norm1(b))
        tape:backward(h + parts.mlp(parts.norm2(h)), seed)
      end
      assert.bits_equal(b:grad(), a:grad())
      for name, t in pairs(block:tensors()) do
        local part, rest = name:match "^(%w+)%.(.+)$"
        assert.bits_equal(parts[part]:tensors()[rest]:grad(), t:grad(), name)
      end
    end)
  end
end)

describe("the gradient of a sum and its norm", function()
  it("gathers in what arrives for the sum, without a copy", function()
    local rows <const>, width <const>, array <const> = 512, 256, 512 * 256 * 4
    local x, h = pf.randn(rows, width):requires_grad(), pf.randn(rows, width)
    local seed, weight = pf.randn(rows, width), pf.ones(width)
    local tape <close> = pf.tape()
    local sum, y = pf.add_layernorm(x, h, weight)
    local z = 2 * sum + y
    collectgarbage()
    pf.reset_peak()
    local before = pf.memory().live
    tape:backward(z, seed)
    -- What 2 * sum gives, and the leaf's own.
    local arrays = (pf.memory().peak - before) / array
    assert.is_true(arrays > 1.9 and arrays < 2.5, arrays)
  end)
end)
