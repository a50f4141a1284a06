-- extremes_spec.lua - inputs at the edges, for every attention of the registry, full and causal,
-- forward, backward and streaming: scales from 1e-3 to 1e3, one huge key, equal keys, no key
-- left, NaN in one item. What has a finite answer is finite; what is not a number stays in its
-- own item.
local pf = require "performer"
local trial = require "spec.support.trial"

local B, H, D, DV, C = 2, trial.H, trial.D, trial.DV, trial.C
local L = C + 13

local function randn(seed, ...)
  pf.seed(seed)
  return pf.randn(...):detach()
end

local function qkv(length)
  length = length or L
  return randn(1, B, H, length, D), randn(2, B, H, length, D), randn(3, B, H, length, DV)
end

local is_positive = {}
for _, map in ipairs(pf.kernels().maps) do is_positive[map.name] = map.positive end

--- No weight below 0: an output is a mean of values.
local function positive(a) return a.exact or is_positive[a.map] end

--- Exact attention and every map, projected, and plain where it can be.
local function attentions()
  local list = { { name = "exact", exact = true } }
  for _, map in ipairs(pf.kernels().maps) do
    local make = pf.kernel[map.name]
    list[#list + 1] = { name = map.name .. ", projected", map = map.name,
      kernel = make { seed = 11, head_dim = D, features = 16 } }
    if not map.softmax then
      list[#list + 1] = { name = map.name, map = map.name, kernel = make { head_dim = D } }
    end
  end
  return list
end

local function finite(t)
  local size = t:abs():max():item()
  return size == size and size < math.huge
end

local function largest(t) return t:abs():max():item() end

--- out, dq, dk, dv for cotangents of ones, all finite; `what` for the message.
local function run_finite(a, q, k, v, o, what)
  local results = { trial.gradients(a, q, k, v, pf.ones(v:shape()), o) }
  for i, name in ipairs { "out", "dq", "dk", "dv" } do
    assert.is_true(finite(results[i]), ("%s: %s, %s is not finite"):format(a.name, what, name))
  end
  for _, t in ipairs { q, k, v } do t:clear_grad() end
  return table.unpack(results)
end

--- A streaming state for attention a.
local function state_of(a)
  return pf.attention.state { kernel = a.exact and "exact" or a.kernel, batch = B, heads = H,
                              head_dim = D, value_dim = DV }
end

--- Prefill of `first` positions, then steps: the outputs (B, H, L, DV).
local function stream(a, q, k, v, first)
  local state, parts = state_of(a), {}
  local length = q:size(3)
  local function cut(t, from, to) return t:slice(3, from, to) end
  parts[1] = state:prefill(cut(q, 1, first), cut(k, 1, first), cut(v, 1, first))
  for i = first + 1, length do
    parts[#parts + 1] = state:step(cut(q, i, i), cut(k, i, i), cut(v, i, i))
    if #parts == 8 then parts = { pf.concat(parts, 3) } end
  end
  return pf.concat(parts, 3)
end

--- t with key `at` of every head times `factor`.
local function with_huge(t, at, factor)
  local length = t:size(3)
  local parts = { t:slice(3, at, at) * factor }
  if at > 1 then table.insert(parts, 1, t:slice(3, 1, at - 1)) end
  if at < length then parts[#parts + 1] = t:slice(3, at + 1, length) end
  return pf.concat(parts, 3):detach()
end

--- t with item 1 replaced by `value`.
local function with_item(t, value)
  return pf.concat({ (t:slice(1, 1, 1) * 0 + 1) * value, t:slice(1, 2, B) }, 1):detach()
end

local function same_bits(a, b) return a:tobytes() == b:tobytes() end

for _, a in ipairs(attentions()) do
  describe(a.name .. " attention", function()
    for _, causal in ipairs { false, true } do
      local kind = causal and ", causal" or ", full"

      it("is finite with inputs scaled by 1e-3 to 1e3" .. kind, function()
        for _, scales in ipairs { { 1e-3, 1e-3 }, { 1e-3, 1e3 }, { 1e3, 1e-3 }, { 1e3, 1e3 },
          { 30, 30 }, { 1, 1e3 } } do
          local q, k, v = qkv()
          q, k = (q * scales[1]):detach(), (k * scales[2]):detach()
          local out = run_finite(a, q, k, v, { causal = causal },
            ("scales %g, %g"):format(scales[1], scales[2]))
          if positive(a) then assert.is_true(largest(out) <= largest(v) * 1.001) end
        end
        local q, k, v = qkv()
        run_finite(a, q, k, (v * 1e3):detach(), { causal = causal }, "values of 1e3")
      end)

      it("is finite with one huge key first, in the middle, last" .. kind, function()
        local q, k, v = qkv()
        local plain = trial.attend(a, q, k, v, { causal = causal })
        for _, at in ipairs { 1, L // 2, L } do
          for _, factor in ipairs { 1e3, -1e3, 30 } do
            local what = ("key %d times %g"):format(at, factor)
            local out = run_finite(a, q, with_huge(k, at, factor), v, { causal = causal }, what)
            if positive(a) then assert.is_true(largest(out) <= largest(v) * 1.001, what) end
            if causal and at > 1 then
              assert.is_true(same_bits(plain:slice(3, 1, at - 1), out:slice(3, 1, at - 1)), what)
            end
          end
        end
      end)

      it("gives the mean of the values where keys are equal" .. kind, function()
        local q, k, v = qkv()
        local equal = (k:slice(3, 1, 1) + k * 0):detach()
        local out = run_finite(a, q, equal, v, { causal = causal }, "equal keys")
        local mean = v:mean(3)
        local gap = out:slice(3, L, L) - mean:reshape(B, H, 1, DV)
        assert.is_true(largest(gap) < 1e-4 * largest(v), ("off by %g"):format(largest(gap)))
      end)

      it("gives 0 where every key is masked" .. kind, function()
        local q, k, v = qkv()
        local none = pf.zeros(B, L, { dtype = "i32" })
        for _, t in ipairs { run_finite(a, q, k, v, { causal = causal, mask = none }, "no key") } do
          assert.are.equal(0, largest(t))
        end
      end)

      it("keeps NaN and infinity in their own item" .. kind, function()
        local q, k, v = qkv()
        local want = { trial.gradients(a, q, k, v, pf.ones(v:shape()), { causal = causal }) }
        for _, value in ipairs { 0 / 0, math.huge, -math.huge } do
          for which = 1, 3 do
            local x = { q:detach(), k:detach(), v:detach() }
            x[which] = with_item(x[which], value)
            local got = { trial.gradients(a, x[1], x[2], x[3], pf.ones(v:shape()),
              { causal = causal }) }
            for i = 1, 4 do
              assert.is_true(same_bits(want[i]:slice(1, 2, B), got[i]:slice(1, 2, B)),
                ("input %d is %g, result %d"):format(which, value, i))
            end
          end
        end
      end)
    end

    it("streams extreme inputs as the causal form does", function()
      local q, k, v = qkv(24)
      for _, case in ipairs {
        { "scaled by 1e3", (q * 1e3):detach(), (k * 1e3):detach() },
        { "scaled by 1e-3", (q * 1e-3):detach(), (k * 1e-3):detach() },
        { "huge first", q, with_huge(k, 1, 1e3) },
        { "huge in the prefill", q, with_huge(k, 5, 1e3) },
        { "huge in the steps", q, with_huge(k, 15, 1e3) },
        { "huge last", q, with_huge(k, 24, 1e3) },
        { "equal keys", q, (k:slice(3, 1, 1) + k * 0):detach() },
      } do
        local out = stream(a, case[2], case[3], v, 9)
        assert.is_true(finite(out), case[1])
        local whole = trial.attend(a, case[2], case[3], v, { causal = true })
        if positive(a) then
          assert.is_true(largest(out - whole) <= 1e-3 * largest(v),
            ("%s: off by %g"):format(case[1], largest(out - whole)))
        end
      end
    end)

    it("streams an item beside one that is not a number", function()
      local q, k, v = qkv(20)
      local plain = stream(a, q, k, v, 9)
      local out = stream(a, q, with_item(k, 0 / 0), v, 9)
      assert.is_true(same_bits(plain:slice(1, 2, B), out:slice(1, 2, B)))
    end)
  end)
end
