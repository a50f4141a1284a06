-- attention_spec.lua - every attention against the definition in double precision
-- (support/attention.lua), and the promises of DESIGN section 5: causality to the bit, items
-- that don't depend on their neighbours, masks on keys, extreme inputs. Loops over the
-- registry of feature maps: a map without a definition there fails.
local pf = require "performer"
local array = require "spec.support.array"
local judge = require "spec.support.attention"
local trial = require "spec.support.trial"

local C, H, D, DV = trial.C, trial.H, trial.D, trial.DV
local attentions, attend, inputs = trial.attentions, trial.attend, trial.inputs
local tensors, gradients, assert_close = trial.tensors, trial.gradients, trial.assert_close
local holes, runs = trial.holes, trial.runs
local lengths = { 0, 1, C - 1, C, C + 1, 3 * C + 5 }

--- The judge's call for attention a.
local function judged(a, q, k, v, o)
  return { exact = a.exact, map = a.map, W = a.W, q = q, k = k, v = v, causal = o.causal,
           mask = o.mask, documents = o.documents }
end

--- Options as tensors.
local function as_tensors(o)
  local options = { causal = o.causal }
  options.mask = o.mask and array.tensor(o.mask)
  options.documents = o.documents and array.tensor(o.documents)
  return options
end

--- Forward and gradients of one case against the judge, head by head.
local function hold_against(a, B, L, o, seed)
  local q, k, v = inputs(B, L, seed or L + 1)
  local g = array.random(L + 77):normals(v.shape)
  local call = judged(a, q, k, v, o)
  local tq, tk, tv, tg = tensors(q, k, v, g)
  local out, dq, dk, dv = gradients(a, tq, tk, tv, tg, as_tensors(o))
  if L == 0 then
    assert.are.same({ B, H, 0, DV }, { table.unpack(out:shape()) })
    return
  end
  assert_close(judge.forward(call), array.of(out), L * DV, 1e-5, "the output")
  local wq, wk, wv = judge.backward(call, g)
  assert_close(wv, array.of(dv), L * DV, 1e-4, "the gradient of v")
  -- One key alone: weights are 1 whatever q and k are, and their gradients rounding.
  if L == 1 then
    assert.is_true(array.largest(array.of(dq)) < 1e-5 and array.largest(array.of(dk)) < 1e-5)
    return
  end
  assert_close(wq, array.of(dq), L * D, 1e-4, "the gradient of q")
  assert_close(wk, array.of(dk), L * D, 1e-4, "the gradient of k")
end

local function bytes_of(t, first, last) return t:slice(3, first, last):tobytes() end

-- ---- the judge itself ------------------------------------------------------------------

describe("the judge", function()
  it("has gradients that are the differences of its forward", function()
    for _, a in ipairs(attentions()) do
      local q, k, v = inputs(1, 7, 3)
      local g = array.random(5):normals(v.shape)
      local o = judged(a, q, k, v, { causal = true, mask = holes(1, 7) })
      local grads = { judge.backward(o, g) }
      for n, x in ipairs { q, k, v } do
        for i = 1, #x, 11 do
          local kept, sum = x[i], {}
          for side = -1, 1, 2 do
            x[i] = kept + side * 1e-5
            local out = judge.forward(o)
            sum[side] = 0
            for e = 1, #out do sum[side] = sum[side] + out[e] * g[e] end
          end
          x[i] = kept
          assert.are.near((sum[1] - sum[-1]) / 2e-5, grads[n][i], 1e-7, a.name)
        end
      end
    end
  end)
end)

-- ---- closeness -------------------------------------------------------------------------

for _, a in ipairs(attentions()) do
  describe(a.name .. " attention", function()
    for _, causal in ipairs { false, true } do
      it((causal and "causal" or "full") .. " equals its definition at every length", function()
        for _, L in ipairs(lengths) do
          hold_against(a, L > 2 * C and 1 or 2, L, { causal = causal })
        end
      end)

      it((causal and "causal" or "full") .. " with masks and documents", function()
        local L = C + 9
        hold_against(a, 2, L, { causal = causal, mask = holes(2, L) })
        hold_against(a, 2, L, { causal = causal, documents = runs(2, L, 29) })
        hold_against(a, 1, L, { causal = causal, mask = holes(1, L), documents = runs(1, L, 13) })
      end)
    end

    it("stays close up to |x|^2 = 16, where features reach e^16", function()
      local L = C + 9
      local q, k, v = inputs(1, L, 5)
      for _, x in ipairs { q, k } do
        for first = 0, #x - D, D do
          local square = 0
          for c = 1, D do square = square + x[first + c] ^ 2 end
          for c = 1, D do
            x[first + c] = array.round(x[first + c] * math.sqrt(16 * math.sqrt(D) / square))
          end
        end
      end
      local tq, tk, tv = tensors(q, k, v)
      for _, causal in ipairs { false, true } do
        local want = judge.forward(judged(a, q, k, v, { causal = causal }))
        local got = array.of(attend(a, tq, tk, tv, { causal = causal }))
        assert_close(want, got, L * DV, 1e-5, causal and "causal" or "full")
      end
    end)

    it("gives 0 and gradients 0 where every key is masked", function()
      local B, L = 2, C + 3
      local q, k, v = tensors(inputs(B, L, 4))
      -- Item 1 has no key at all, item 2 none in its first half (nothing for causal rows).
      local keep = array.tensor(array.new({ B, L },
          function(i) return i > L + L // 2 and 1 or 0 end, "i32"))
      for _, causal in ipairs { false, true } do
        local out, dq, dk, dv = gradients(a, q, k, v, pf.ones(B, H, L, DV),
          { mask = keep, causal = causal })
        for name, t in pairs { out = out, dq = dq, dk = dk, dv = dv } do
          assert.are.equal(0, t[1]:abs():max():item(), name)
          assert.is_true(array.all_finite(array.of(t)), name)
        end
        if causal then
          assert.are.equal(0, out[2]:slice(2, 1, L // 2):abs():max():item())
          assert.are.equal(0, dq[2]:slice(2, 1, L // 2):abs():max():item())
        end
        assert.are.equal(0, dk[2]:slice(2, 1, L // 2):abs():max():item())
        for _, t in ipairs { q, k, v } do t:clear_grad() end
      end
    end)

    it("is finite, forward and backward, at extreme scales", function()
      local L = C + 5
      for _, scale in ipairs { { 1e-3, 1e-3 }, { 1, 1e3 }, { 1e3, 1 }, { 1e3, 1e3 },
        { 1e-3, 1e3 } } do
        local q, k, v = tensors(inputs(1, L, 8))
        q, k = (q * scale[1]):detach(), (k * scale[2]):detach()
        for _, causal in ipairs { false, true } do
          local results = { gradients(a, q, k, v, pf.ones(1, H, L, DV), { causal = causal }) }
          for i, t in ipairs(results) do
            assert.is_true(array.all_finite(array.of(t)),
              ("scales %g %g, result %d"):format(scale[1], scale[2], i))
          end
          assert.is_true(results[1]:abs():max():item() <= v:abs():max():item() * 1.0001)
          for _, t in ipairs { q, k, v } do t:clear_grad() end
        end
      end
      local q, k, v = inputs(1, L, 9)
      for c = 1, D do k[20 * D + c] = 1e3 end
      local results = { gradients(a, array.tensor(q), array.tensor(k), array.tensor(v),
          pf.ones(1, H, L, DV),
        { causal = true }) }
      for _, t in ipairs(results) do assert.is_true(array.all_finite(array.of(t))) end
    end)

    it("gives a prefix the same bits whatever follows", function()
      local L = 2 * C + 9
      local q, k, v = inputs(1, L, 12)
      local whole = attend(a, array.tensor(q), array.tensor(k), array.tensor(v), { causal = true })
      for _, t in ipairs { 1, 40, C, C + 1, 2 * C + 3 } do
        for _, alien in ipairs { 1e4, 0 / 0, math.huge, -math.huge } do
          local other = {}
          for n, x in ipairs { q, k, v } do
            local width = x.shape[4]
            other[n] = array.new(x.shape, function(i)
              return (i - 1) // width % L + 1 > t and alien or x[i]
            end)
          end
          local y = attend(a, array.tensor(other[1]), array.tensor(other[2]),
            array.tensor(other[3]), { causal = true })
          assert.are.equal(bytes_of(whole, 1, t), bytes_of(y, 1, t),
            ("up to %d, then %g"):format(t, alien))
        end
        local function cut(x) return array.tensor(x):slice(3, 1, t) end
        assert.are.equal(bytes_of(whole, 1, t),
          attend(a, cut(q), cut(k), cut(v), { causal = true }):tobytes(),
          "cut after " .. t)
      end
    end)

    it("ignores masked padding to the bit, whatever stands there", function()
      local L, pad = C + 6, 70
      local q, k, v = inputs(1, L, 13)
      local function padded(x)
        local width = x.shape[4]
        return array.new({ 1, H, L + pad, width }, function(i)
          local row, c = (i - 1) // width, (i - 1) % width + 1
          local h, l = row // (L + pad), row % (L + pad)
          return l < L and x[(h * L + l) * width + c] or 0 / 0
        end)
      end
      local keep = array.tensor(array.new({ 1, L + pad }, function(i) return i <= L and 1 or 0 end,
          "i32"))
      for _, causal in ipairs { false, true } do
        local alone = attend(a, array.tensor(q), array.tensor(k), array.tensor(v),
          { causal = causal })
        local y = attend(a, array.tensor(padded(q)), array.tensor(padded(k)),
          array.tensor(padded(v)),
          { causal = causal, mask = keep })
        assert.are.equal(alone:tobytes(), bytes_of(y, 1, L))
      end
    end)

    it("gives an item the same bits whatever its neighbours", function()
      local B, L = 3, C + 7
      local q, k, v = inputs(B, L, 14)
      local tq, tk, tv = tensors(q, k, v)
      for _, causal in ipairs { false, true } do
        local whole = attend(a, tq, tk, tv, { causal = causal })
        for b = 1, B do
          local y = attend(a, tq:slice(1, b, b), tk:slice(1, b, b), tv:slice(1, b, b),
            { causal = causal })
          assert.are.equal(whole:slice(1, b, b):tobytes(), y:tobytes())
        end
        local poisoned = array.copy(k)
        for i = 1, H * L * D do poisoned[i] = 0 / 0 end
        local y = attend(a, tq, array.tensor(poisoned), tv, { causal = causal })
        assert.are.equal(whole:slice(1, 2, 3):tobytes(), y:slice(1, 2, 3):tobytes())
      end
    end)

    it("gives packed documents the bits they have alone", function()
      local L, cuts = 2 * C + 20, { 0, 10, 10 + C, 2 * C + 19, 2 * C + 20 }
      local q, k, v = tensors(inputs(1, L, 15))
      local number = array.tensor(array.new({ 1, L }, function(i)
        local document = 0
        for n, cut in ipairs(cuts) do document = i > cut and n or document end
        return document
      end, "i32"))
      for _, causal in ipairs { false, true } do
        local packed = attend(a, q, k, v, { causal = causal, documents = number })
        for n = 1, #cuts - 1 do
          local first, last = cuts[n] + 1, cuts[n + 1]
          local y = attend(a, q:slice(3, first, last), k:slice(3, first, last),
            v:slice(3, first, last),
            { causal = causal })
          assert.are.equal(bytes_of(packed, first, last), y:tobytes())
        end
      end
    end)

    it("reads q, k and v in any layout with the same result", function()
      local q, k, v = inputs(2, C + 3, 16)
      local want = array.of(attend(a, array.tensor(q), array.tensor(k), array.tensor(v),
          { causal = true }))
      for _, layout in ipairs { "transposed", "sliced" } do
        local got = array.of(attend(a, array.tensor(q, layout), array.tensor(k, layout),
            array.tensor(v, layout),
          { causal = true }))
        assert_close(want, got, (C + 3) * DV, 1e-6, layout)
      end
    end)
  end)
end
