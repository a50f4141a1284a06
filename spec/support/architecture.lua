-- support/architecture.lua - what the specs of a model's options share: small models with them,
-- held to the same model in plain Lua, to their own streams, slices and second runs.
-- `require "spec.support.architecture"`.
local pf = require "performer"
local array = require "spec.support.array"
local assert = require "luassert"
local models = require "spec.support.models"
local plain_model = require "spec.support.plain_model"
local nn = pf.nn

local VOCAB, LENGTH = 13, 7

local function with(a, b)
  local o = {}
  for key, value in pairs(a) do o[key] = value end
  for key, value in pairs(b or {}) do o[key] = value end
  return o
end

--- A small model whose numbers that begin at 0 or 1 count, and its options.
local function made(options)
  local o = with({ vocab = VOCAB, dim = 8, layers = 2, heads = 2, causal = true,
                   attention = "exact", length = 16 }, options)
  o.attention = o.attention or nil -- false: the engine's own
  pf.seed(3)
  local model = nn.performer(o)
  for _, t in pf.sorted(model:tensors()) do t:copy_(t + pf.randn(t:shape()) * 0.2) end
  return model, o
end

--- (B, L) ids.
local function ids_of(batch, length, seed)
  return array.tensor(array.random(seed or 4):whole({ batch, length }, 0, VOCAB - 1))
end

--- Holds a model to plain Lua, its bits to the promises and its stream to the whole.
local function assert_model(options)
  local model, o = made(options)
  local x = ids_of(2, LENGTH)
  local want = {}
  for b, ids in ipairs(x:totable()) do want[b] = plain_model.logits(model, o, ids) end
  assert.near_tensor(want, model(x), 1e-5)
  pf.check.bits(model, x)
  if o.causal then pf.check.streaming(model, x) end
  return model, o
end

--- Gradients by name after `f` has gone backward.
local function gradients(model, f)
  f()
  return models.take_gradients(model)
end

--- Holds the gradient of a model on packed documents to differences, and to itself in slices and
--- run again.
local function assert_trains(options)
  local favor = (options.attention or "favor") == "favor"
  options = with({ attention = "favor", kernel = favor and { features = 8, seed = 2 } or nil },
    options)
  local x = ids_of(2, 33, 6)
  local rows, numbers = { input = x:slice(2, 1, 32), target = x:slice(2, 2, 33) }, {}
  for b = 1, 2 do
    numbers[b] = {}
    for t = 1, 32 do numbers[b][t] = (t + 3 * b) // 9 end
  end
  rows.documents = pf.tensor(numbers, { dtype = "i32" })
  local model = made(options)
  local function loss(m)
    return m(rows.input, { documents = rows.documents, training = true, step = 3 })
      :cross_entropy(rows.target)
  end
  local function recorded(m)
    return gradients(m, function()
      local tape <close> = pf.tape()
      tape:backward(loss(m))
    end)
  end
  local want = recorded(model)
  if not options.dropout then -- slices draw masks of their own
    pf.check.gradient(function() return loss(model) end, model, { tolerance = 2e-2 })
    models.assert_gradients(want, gradients(model, function()
      model:backward_sliced(rows, { slices = 2, step = 3 })
    end), 1e-4)
  end
  local again = recorded((made(with(options, { recompute = true }))))
  for name, grad in pairs(want) do assert.bits_equal(grad, again[name]) end
end

--- Every combination of choices: { name = { values } } as a list of options.
local function combined(choices)
  local list = { {} }
  for key, values in pf.sorted(choices) do
    local longer = {}
    for _, o in ipairs(list) do
      for _, value in ipairs(values) do longer[#longer + 1] = with(o, { [key] = value }) end
    end
    list = longer
  end
  return list
end

return { VOCAB = VOCAB, LENGTH = LENGTH, with = with, made = made, ids_of = ids_of,
         assert_model = assert_model, assert_trains = assert_trains, combined = combined }
