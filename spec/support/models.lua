-- support/models.lua - what the specs of the memory savers share: token ids, and small models that
-- differ in nothing but the option at hand. `require "spec.support.models"`.
local array = require "spec.support.array"
local pf = require "performer"

local models = {}

--- (B, L) i32 of f(b, t).
function models.ids_of(B, L, f)
  local list = {}
  for b = 1, B do
    list[b] = {}
    for t = 1, L do list[b][t] = f(b, t) end
  end
  return pf.tensor(list, { dtype = "i32" })
end

--- (B, L) ids below n.
function models.ids(B, L, n, seed)
  return array.tensor(array.random(seed or 1):whole({ B, L }, 0, n - 1))
end

--- A model whose weights are those of every other one with these options.
function models.new(options)
  pf.seed(7)
  local o = { vocab = 19, dim = 16, layers = 3, heads = 2, causal = true,
              kernel = { name = "softmax", features = 16, seed = 3 } }
  for key, value in pairs(options) do o[key] = value end
  return pf.nn.performer(o)
end

return models
