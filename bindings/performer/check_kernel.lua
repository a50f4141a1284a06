-- performer/check_kernel.lua: a kernel held against its definition. Attention with a kernel is
--     out_i = sum_j phi(q_i).phi(k_j) v_j / sum_j phi(q_i).phi(k_j),
-- here summed one term after another in double precision from kernel:features; the engine sums
-- in blocks, in float, with shifts that keep it in range, or along a stream.
local core = require "performer.core"
local util = require "performer.util"

local B, H, DV = 2, 2, 3 -- of the inputs that the check makes itself

--- Normal numbers of the check's own, so that the engine's seed is left alone.
local function normals(sizes, scale, random)
  local count, list = 1, {}
  for _, size in ipairs(sizes) do count = count * size end
  local function uniform()
    random.x = (random.x * 1103515245 + 12345) % 2147483648
    return (random.x // 1024 + 0.5) / 2 ^ 21
  end
  for i = 1, count do
    list[i] = scale * math.sqrt(-2 * math.log(uniform())) * math.cos(2 * math.pi * uniform())
  end
  return core.tensor(list):reshape(sizes)
end

--- For every (batch, head): rows of features or values as lists of numbers.
local function heads(t)
  local list = {}
  for _, item in ipairs(t:totable()) do
    for _, head in ipairs(item) do list[#list + 1] = head end
  end
  return list
end

--- One query's sums over keys 1 .. n: the output, and sum |w| / |sum w|, by how much terms of
--- both signs raise the error of a float.
local function row(phi_q, phi_k, v, n)
  local out, sum, size = {}, 0, 0
  for c = 1, #v[1] do out[c] = 0 end
  for j = 1, n do
    local w = 0
    for a = 1, #phi_q do w = w + phi_q[a] * phi_k[j][a] end
    sum, size = sum + w, size + math.abs(w)
    for c = 1, #out do out[c] = out[c] + w * v[j][c] end
  end
  for c = 1, #out do out[c] = out[c] / sum end
  return out, size / math.abs(sum)
end

--- {outputs of a head, row by row}, each row with `raised`: row()'s second result.
local function definition(phi_q, phi_k, v, causal)
  local all = {}
  for h = 1, #phi_q do
    all[h] = {}
    for i = 1, #phi_q[h] do
      local out, raised = row(phi_q[h][i], phi_k[h], v[h], causal and i or #phi_k[h])
      out.raised = raised
      all[h][i] = out
    end
  end
  return all
end

--- max|a - b| / max|b| of the worst head, every row's gap measured by what its signs allow.
local function distance(got, want)
  local worst = 0
  for h, rows in ipairs(heads(got)) do
    local far, top = 0, 0
    for i, out in ipairs(rows) do
      for c, value in ipairs(out) do
        local b = want[h][i][c]
        local off = math.abs(value - b) / want[h][i].raised
        if off ~= off then off = math.huge end
        far, top = math.max(far, off), math.max(top, math.abs(b))
      end
    end
    if far > 0 then worst = math.max(worst, far / top) end
  end
  return worst
end

--- The causal output by a state: half at once, then step by step.
local function streamed(attention, kernel, q, k, v)
  local state = attention.state { kernel = kernel, batch = q:size(1), heads = q:size(2),
                                  head_dim = q:size(4), value_dim = v:size(4) }
  local L = q:size(3)
  local half = L // 2
  local out = state:prefill(q:slice(3, 1, half), k:slice(3, 1, half), v:slice(3, 1, half))
  for t = half + 1, L do
    local one = state:step(q:slice(3, t, t), k:slice(3, t, t), v:slice(3, t, t))
    out = core.op.concat({ out, one }, 3)
  end
  return out
end

--- The features of queries or keys (B, H, L, d), held to be (B, H, L, r).
local function features(kernel, x, side)
  local phi = kernel:features(x, side)
  local fits = core.kind(phi) == "tensor" and phi:rank() == 4
  for dim = 1, fits and 3 or 0 do fits = fits and phi:size(dim) == x:size(dim) end
  if not fits then
    util.fail("check.kernel: the map must make features (B, H, L, r) of %s, but made %s",
      tostring(x:shape()), core.kind(phi) == "tensor" and tostring(phi:shape()) or core.kind(phi))
  end
  return phi:detach()
end

--- Ops are methods of tensors, `features` too.
local function is_kernel(value)
  local may_be = type(value) == "table" or type(value) == "userdata"
  return may_be and core.kind(value) ~= "tensor" and type(value.features) == "function"
end

--- Full attention measures eps over all keys (option stabiliser), which features of single rows
--- don't tell; fails for a kernel that has no other attention.
local function is_published(kernel, where)
  local options = kernel:config()
  local name = options.name or "softmax"
  if name ~= "softmax" and name ~= "softmax_reg" then return false end
  if options.stabiliser == "reference" then
    util.fail("%s: with stabiliser = \"reference\" a feature depends on all keys; there is no " ..
      "definition of a row to hold it against", where)
  end
  return not options.stabiliser and (options.preset or "own") ~= "own"
end

--- Holds attention with a kernel of pf.kernel.* (a custom one as well) against its definition,
--- summed in double precision: full (but for a preset's, that measures eps over all keys), causal,
--- and streamed. Returns the differences {full, causal,
--- streaming}, max|a - b| / max|b| of the worst head; raises when one is above `tolerance`, or
--- gives nil and the text with {raise = false}. Options tolerance (1e-5), length (70), head_dim
--- (the kernel's, else 8), norm (1: the mean |x|^2 of a query or key before the kernel's scale,
--- by head_dim), seed (1), raise.
return function(kernel, options)
  local where = "check.kernel"
  options = util.check_options(options, { "tolerance", "length", "head_dim", "norm", "seed",
    "raise" }, where)
  if type(kernel) == "string" or type(kernel) == "table" and not is_kernel(kernel) then
    kernel = require("performer.kernel").resolve({ kernel = kernel }, where).kernel
  end
  if not is_kernel(kernel) then
    util.fail("%s: a kernel of pf.kernel.* is needed, got %s", where, core.kind(kernel))
  end
  local attention, published = require("performer.kernel").attention, is_published(kernel, where)
  local d, L = options.head_dim or 8, options.length or 70
  local random = { x = 7 + 1000 * (options.seed or 1) }
  local scale = math.sqrt(options.norm or 1)
  local q, k = normals({ B, H, L, d }, scale, random), normals({ B, H, L, d }, scale, random)
  local v = normals({ B, H, L, DV }, 1, random)
  local phi_q, phi_k = heads(features(kernel, q, "query")), heads(features(kernel, k, "key"))
  local values, report = heads(v), {}
  local causal = definition(phi_q, phi_k, values, true)
  if not published then
    report.full = distance(attention.favor(q, k, v, { kernel = kernel }),
      definition(phi_q, phi_k, values, false))
  end
  report.causal = distance(attention.favor(q, k, v, { kernel = kernel, causal = true }), causal)
  report.streaming = distance(streamed(attention, kernel, q, k, v), causal)
  for name, off in util.sorted(report) do
    if not (off <= (options.tolerance or 1e-5)) then -- luacheck: ignore 581
      local text = ("%s: %s attention is off by %.3g of its largest number from the sum of " ..
        "phi(q).phi(k) v; at most %.3g is close"):format(where, name, off,
        options.tolerance or 1e-5)
      if options.raise == false then return nil, text end
      util.fail("%s", text)
    end
  end
  return report
end
