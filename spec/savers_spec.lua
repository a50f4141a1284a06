-- savers_spec.lua - ways to hold less in training, together: slices whose blocks are recomputed or
-- reversible, on one level of states or two. The gradient is that of each by itself. Bytes are
-- counted by the engine; no time is measured.
local pf = require "performer"
local models = require "spec.support.models"
local nn = pf.nn

local B, L = 2, 150

local function rows(f) return models.ids_of(B, L, f) end

local input = rows(function(b, t) return (t * t + 7 * b) % 19 end)
local target = rows(function(b, t) return t % 11 == 0 and -1 or (3 * t + b * t * t) % 19 end)
local packed = rows(function(b, t) return (t + 13 * b) // 40 end)
local there = rows(function(b, t) return t <= 120 + 10 * b and 1 or 0 end)

local CASES = {
  plain = { {} },
  dropout = { { dropout = 0.3, conv = 4, ngrams = { longest = 4, buckets = 64 } } },
  ["heads that forget"] = { { decay = 1, qk_norm = true, kv_heads = 1, conv = 3 } },
  ["packed documents and a mask"] = { { conv = 4, positions = "sinusoidal", dropout = 0.1 },
                                      { documents = packed, mask = there } },
  ["tilted features"] = { { kernel = { name = "softmax_plus", features = 16, seed = 3 } } },
  ["relu features"] = { { kernel = { name = "relu" }, act = "swiglu", norm = "rmsnorm" } },
  ["a map of Lua's"] = { { kernel = pf.kernel.custom { name = "savers", map = function(x)
    return x:elu() + 1
  end } } },
  ["identity attention"] = { { attention = "identity", tied = false } },
}

local function batch_of(case)
  local batch = { input = input, target = target }
  for key, value in pairs(case[2] or {}) do batch[key] = value end
  return batch
end

local function model_of(options, more)
  local all = {}
  for _, list in ipairs { options, more or {} } do
    for key, value in pairs(list) do all[key] = value end
  end
  return models.new(all)
end

--- name -> gradient, which is cleared, and the loss.
local function take(model, loss) return models.take_gradients(model), loss end

local function sliced(model, case, options)
  options.step = 3
  return take(model, model:backward_sliced(batch_of(case), options))
end

local function assert_bits(want, got)
  for name, grad in pairs(want) do assert.bits_equal(grad, got[name]) end
end

describe("slices of recomputed blocks", function()
  for name, case in pairs(CASES) do
    it("have the bits of slices, with " .. name, function()
      local plain, recomputed = model_of(case[1]), model_of(case[1], { recompute = true })
      for _, slices in ipairs { 1, 2, 5 } do
        local grads, loss = sliced(plain, case, { slices = slices })
        for levels = 1, 2 do
          local got, other = sliced(recomputed, case, { slices = slices, levels = levels })
          assert.are.equal(loss, other)
          assert_bits(grads, got)
        end
      end
    end)
  end

  it("may stand in a chain that is recomputed itself", function()
    local function chain_of(recompute)
      pf.seed(7)
      local block = { dim = 16, heads = 2, causal = true, conv = 3, dropout = 0.1,
                      recompute = recompute, kernel = { name = "relu" } }
      return nn.chain { nn.embedding { vocab = 19, dim = 16 },
                        nn.chain { recompute = recompute, nn.block(block), nn.block(block) },
                        nn.linear { from = 16, to = 19 } }
    end
    local case = { {} }
    local grads, loss = sliced(chain_of(false), case, { slices = 4 })
    local got, other = sliced(chain_of(true), case, { slices = 4 })
    assert.are.equal(loss, other)
    assert_bits(grads, got)
  end)

  it("look at queries and keys once", function()
    local reports = {}
    for i, recompute in ipairs { false, true } do
      local model = model_of({ kernel = { name = "softmax_plus", features = 16, seed = 3 } },
                             { recompute = recompute })
      model:backward_sliced(batch_of { {} }, { slices = 3, levels = i, watch = true })
      reports[i] = pf.json.encode(model:attention_report())
    end
    assert.are.equal(reports[1], reports[2])
  end)
end)

describe("slices of reversible blocks", function()
  for name, case in pairs(CASES) do
    it("have the gradient of the whole, with " .. name, function()
      local model = model_of(case[1], { reversible = true })
      local drops = (case[1].dropout or 0) > 0 -- which slices draw otherwise
      local whole, loss = sliced(model, case, { slices = 1 })
      for _, slices in ipairs { 2, 5 } do
        local one, other = sliced(model, case, { slices = slices })
        if not drops then
          assert.is_true(math.abs(other - loss) <= 1e-6 * loss)
          models.assert_gradients(whole, one, 1e-4)
        end
        assert_bits(one, (sliced(model, case, { slices = slices, levels = 2 })))
      end
    end)
  end

  it("draw the same dropout in all runs of a slice", function()
    local model = model_of { reversible = true, layers = 2, dropout = 0.4 }
    local w = model:tensors()["blocks.1.mlp.up.weight"]
    local case, options = { {} }, { slices = 5 }
    local direction = pf.randn(table.unpack(w:shape()))
    local slope = (sliced(model, case, options)["blocks.1.mlp.up.weight"] * direction):sum():item()
    local before, sides = w:detach(), {}
    for side, h in ipairs { 1e-2, -1e-2 } do
      w:copy_(before + direction * h)
      sides[side] = select(2, sliced(model, case, options))
    end
    assert.is_true(math.abs((sides[1] - sides[2]) / 2e-2 - slope) < 0.02 * math.abs(slope) + 1e-4)
  end)
end)

describe("activations", function()
  --- Bytes that a step needs beside weights and gradients; length: of slices.
  local function peak_of(options, long, length)
    local model = model_of({ dim = 64, heads = 4 }, options)
    local batch = { input = long, target = long }
    local function step()
      if length then return model:backward_sliced(batch, { slice_length = length }) end
      local tape <close> = pf.tape()
      tape:backward(model:loss(batch))
    end
    step() -- gradients are there
    collectgarbage()
    collectgarbage()
    local before = pf.memory().live
    pf.reset_peak()
    step()
    return pf.memory().peak - before
  end

  it("of 24 reversible layers are at most 1.25 times those of 6", function()
    local long = models.ids(1, 512, 19)
    local few = peak_of({ reversible = true, layers = 6 }, long)
    local many = peak_of({ reversible = true, layers = 24 }, long)
    assert.is_true(many <= 1.25 * few, ("%d of %d"):format(many, few))
  end)

  it("of a slice are fewer with either saver", function()
    local long = models.ids(1, 1024, 19)
    local plain = peak_of({ layers = 6 }, long, 512)
    for _, saver in ipairs { "recompute", "reversible" } do
      local saved = peak_of({ layers = 6, [saver] = true }, long, 512)
      assert.is_true(saved < 0.6 * plain, ("%s: %d of %d"):format(saver, saved, plain))
    end
  end)
end)
