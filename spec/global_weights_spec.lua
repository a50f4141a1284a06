-- global_weights_spec.lua - sliding attention whose global tokens see by weights of their own
-- (Longformer): the layer against attention composed of its tensors, and what it refuses.
local pf = require "performer"
require "spec.support"

local nn = pf.nn
local B, L, D, H, GLOBAL = 2, 11, 8, 2, 3

local function layer_of(options)
  pf.seed(3)
  local all = { dim = D, heads = H, attention = { name = "sliding", window = 2, global = GLOBAL },
                global_weights = true }
  for name, value in pairs(options or {}) do all[name] = value end
  return nn.attention(all)
end

--- Heads of q, k and v, (B, H, L, d), by the weights of a child of the layer.
local function heads_of(x, weight, bias)
  local rows = x:linear(weight, { bias = bias })
  local parts = {}
  for i = 1, 3 do
    local part = rows:slice(3, (i - 1) * D + 1, i * D)
    parts[i] = part:reshape(B, x:size(2), H, D // H):transpose(2, 3)
  end
  return table.unpack(parts)
end

--- What the layer has to give, of exact attention for global rows and a window for the others.
local function composed(layer, x, causal, mask)
  local t = layer:tensors()
  local q, k, v = heads_of(x, t["qkv.weight"], t["qkv.bias"])
  local gq, gk, gv = heads_of(x, t["global_qkv.weight"], t["global_qkv.bias"])
  local window = pf.attention.listed(q, k, v, { causal = causal, mask = mask,
    pattern = pf.pattern.sliding { window = 2, global = GLOBAL } })
  local exact = pf.attention.exact(gq, gk, gv, { causal = causal, mask = mask })
  local out = pf.concat({ exact:slice(3, 1, GLOBAL), window:slice(3, GLOBAL + 1, x:size(2)) }, 3)
  out = out:transpose(2, 3):reshape(B, x:size(2), D)
  return out:linear(t["out.weight"], { bias = t["out.bias"] })
end

describe("global_weights", function()
  local x = pf.randn(B, L, D)

  for _, causal in ipairs { false, true } do
    it("gives global rows exact attention by their own weights, " ..
      (causal and "causal" or "full"), function()
      local layer = layer_of { causal = causal, bias = true }
      assert.near_tensor(composed(layer, x, causal), layer(x), 2e-6)
      local keep = pf.tensor({ { 1, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1 },
                               { 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0 } }, { dtype = "i32" })
      assert.near_tensor(composed(layer, x, causal, keep), layer(x, { mask = keep }), 2e-6)
    end)
  end

  it("has gradients, and weights of a name of their own", function()
    local layer = layer_of()
    local parameters = {}
    for name, t in pf.sorted(layer:tensors()) do
      assert.matches("^[%w_]+%.weight$", name)
      parameters[#parameters + 1] = t
    end
    assert.equal(3, #parameters) -- qkv, global_qkv, out
    local report = pf.check.gradient(function() return layer(x) end, parameters, { raise = false })
    assert.is_true(report.worst < 2e-3)
    for _, input in ipairs(report.inputs) do assert.is_true(input.judged > 0) end
  end)

  it("begins anew in each document", function()
    local layer = layer_of { causal = true }
    local one, two = x:slice(2, 1, 5), x:slice(2, 6, L)
    local documents = {}
    for b = 1, B do
      documents[b] = {}
      for i = 1, L do documents[b][i] = i <= 5 and 1 or 2 end
    end
    local packed = layer(x, { documents = pf.tensor(documents, { dtype = "i32" }) })
    assert.bits_equal(layer(one), packed:slice(2, 1, 5):detach())
    assert.bits_equal(layer(two), packed:slice(2, 6, L):detach())
  end)

  it("is saved and built again", function()
    local layer = layer_of { causal = true }
    local again = nn.build(layer:tree())
    for name, t in pairs(again:tensors()) do t:copy_(layer:tensors()[name]) end
    assert.bits_equal(layer(x), again(x))
    local model = nn.performer { vocab = 20, dim = 8, layers = 2, heads = 2, global_weights = true,
      attention = { name = "sliding", window = 4, global = 1 } }
    assert.is_true(model:tree().options.global_weights)
  end)

  it("refuses what has no global tokens, and streams", function()
    assert.raises("global_weights.*favor attention has none", function()
      nn.attention { dim = D, heads = H, global_weights = true }
    end)
    assert.raises("global_weights.*sliding attention has none here.*global = 1", function()
      layer_of { attention = { name = "sliding", window = 2 } }
    end)
    assert.raises("global_weights can't stream", function()
      layer_of({ causal = true }):stream { batch = 1 }
    end)
  end)
end)
