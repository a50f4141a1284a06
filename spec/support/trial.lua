-- trial.lua - what the specs of attention share: the attentions under test, their inputs, and
-- how they are run and compared.
local assert = require "luassert"
local pf = require "performer"
local array = require "spec.support.array"

local H, D, DV, M = 2, 6, 5, 16
local trial = {
  C = 48, -- chunk length: what stands on either side of it is tested
  H = H, D = D, DV = DV,
}

--- {name, exact | map, kernel, W}: every map plain or projected as its default is, some maps
--- projected though they need not be, and exact attention. Maps of both signs are left out: their
--- denominators can be near 0, and are held apart from the numerators in attention_close_test.c;
--- with inputs that keep them away from 0 in maps_spec.lua.
local also_projected = { relu = true, exp = true, square = true }

function trial.attentions()
  local list = { { name = "exact", exact = true } }
  for _, map in ipairs(pf.kernels().maps) do
    local make = map.positive and pf.kernel[map.name]
    local options = { seed = 11, head_dim = D, features = map.softmax and M or nil }
    if make then list[#list + 1] = { name = map.name, map = map.name, kernel = make(options) } end
    if make and also_projected[map.name] then
      list[#list + 1] = { name = map.name .. ", projected", map = map.name,
        kernel = make { seed = 11, head_dim = D, features = M, per_head = true } }
    end
  end
  for _, a in ipairs(list) do
    local W = a.kernel and a.kernel:projection(D, H)
    a.W = W and array.of(W)
  end
  return list
end

--- Runs attention `a` in the engine; o: causal, mask, documents, state, entry (tensors).
function trial.attend(a, q, k, v, o)
  local options = {}
  for key, value in pairs(o or {}) do options[key] = value end
  if a.exact then return pf.attention.exact(q, k, v, options) end
  options.kernel = a.kernel
  return pf.attention.favor(q, k, v, options)
end

--- Inputs of length L as arrays, scaled so that |x|^2 stays well below 16.
function trial.inputs(B, L, seed, scale)
  local random = array.random(seed)
  return random:normals({ B, H, L, D }, scale or 1), random:normals({ B, H, L, D }, scale or 1),
    random:normals { B, H, L, DV }
end

--- (B, L) i32 with holes, for a mask.
function trial.holes(B, L)
  return array.new({ B, L }, function(i) return (i - 1 + (i - 1) // L) % 5 == 2 and 0 or 1 end,
    "i32")
end

--- (B, L) i32 of documents in runs.
function trial.runs(B, L, length)
  return array.new({ B, L }, function(i)
    return ((i - 1) % L + (i - 1) // L * 7) // length
  end, "i32")
end

--- Arrays as tensors.
function trial.tensors(...)
  local list = {}
  for i, a in ipairs { ... } do list[i] = array.tensor(a) end
  return table.unpack(list)
end

--- Gradients of q, k, v for cotangents g.
function trial.gradients(a, q, k, v, g, o)
  for _, t in ipairs { q, k, v } do t:requires_grad() end
  local out
  do
    local tape <close> = pf.tape()
    local y = trial.attend(a, q, k, v, o)
    out = y:detach()
    tape:backward((y * g):sum())
  end
  return out, q:grad(), k:grad(), v:grad()
end

--- max|want - got| / max|want| of every run of `size` elements is at most the tolerance.
function trial.assert_close(want, got, size, tolerance, what)
  local distance = array.distance(got, want, size)
  assert.is_true(distance <= tolerance, ("%s is off by %.3g"):format(what, distance))
end

--- max|x|.
function trial.largest(x)
  local most = 0
  for _, value in ipairs(x:reshape(-1):totable()) do most = math.max(most, math.abs(value)) end
  return most
end

--- No NaN, and not +inf.
function trial.assert_sane(t)
  for _, value in ipairs(t:reshape(-1):totable()) do
    assert.is_true(value == value and value < math.huge, tostring(value))
  end
end

return trial
