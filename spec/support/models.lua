-- support/models.lua - what the specs of the memory savers share: token ids, and small models that
-- differ in nothing but the option at hand. `require "spec.support.models"`.
local array = require "spec.support.array"
local assert = require "luassert"
local pf = require "performer"
local support = require "spec.support"

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

local KERNELS = {} -- kinds that read one
for _, kind in ipairs(pf.kinds()) do KERNELS[kind.name] = kind.takes_kernel end

--- Does a model with these options read a kernel?
function models.takes_kernel(o)
  local whole = o.attention or pf.kinds()[1].name
  local names = { whole }
  for i, entry in ipairs(o.attentions or type(whole) == "table" and whole[1] and whole or {}) do
    names[i] = entry
  end
  for i, group in ipairs(o.head_groups or {}) do names[i] = group.attention or whole end
  if o.local_heads == o.heads and o.heads then return false end
  for _, name in ipairs(names) do
    if type(name) == "table" then name = name.name end
    if name == "auto" or KERNELS[name] then return true end
  end
  return false
end

--- A model whose weights are those of every other one with these options.
function models.new(options)
  pf.seed(7)
  local o = { vocab = 19, dim = 16, layers = 3, heads = 2, causal = true,
              kernel = models.takes_kernel(options) and
                { name = "softmax", features = 16, seed = 3 } or nil }
  for key, value in pairs(options) do o[key] = value end
  return pf.nn.performer(o)
end

--- Every parameter's gradient by name; they are cleared.
function models.take_gradients(model)
  local grads, list, names = {}, model:parameters()
  for i, p in ipairs(list) do
    grads[names[i]] = assert(p:grad(), names[i]):detach()
    p:clear_grad()
  end
  return grads
end

--- Holds gradients by name against those that they ought to be.
function models.assert_gradients(want, got, tolerance)
  for name, grad in pairs(want) do
    local distance, why = support.distance(got[name], grad)
    assert.is_true(distance and distance <= tolerance, ("%s: %s"):format(name, distance or why))
  end
end

return models
