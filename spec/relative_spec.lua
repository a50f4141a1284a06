-- relative_spec.lua - Transformer-XL's scores by distance (positions = "relative"): one layer
-- against its definition in double precision, and models that train, go by slices, stream, and go
-- on from rows before.
local pf = require "performer"
local array = require "spec.support.array"
local models = require "spec.support.models"
local support = require "spec.support"

local function largest(a, b) return (a - b):abs():max():item() end

--- y of one attention layer for x (L lists of D numbers), by the definition: heads h of width d,
--- a window of `window` keys, `dilation` apart.
local function defined(t, x, heads, window, dilation)
  local L, D = #x, #x[1]
  local d = D // heads
  local function product(weight, row, from, n)
    local y = {}
    for i = 1, n do
      local sum = 0
      for c = 1, D do sum = sum + weight[(from + i - 1) * D + c] * row[c] end
      y[i] = sum
    end
    return y
  end
  local qkv, heads_out, waves = t["qkv.weight"], {}, {}
  local rows = {}
  for i = 1, L do
    rows[i], heads_out[i] = product(qkv, x[i], 0, 3 * D), {}
  end
  for distance = 0, L - 1 do
    local wave = {}
    for c = 0, D - 1 do
      local angle = distance * 10000 ^ -((c // 2 * 2) / D)
      wave[c + 1] = c % 2 == 0 and math.sin(angle) or math.cos(angle)
    end
    waves[distance] = product(t["relative.weight"], wave, 0, D)
  end
  for i = 1, L do
    for h = 0, heads - 1 do
      local seen, top, sum, out = {}, -math.huge, 0, {}
      for j = math.max(1, i - (window - 1) * dilation), i do
        if (i - j) % dilation == 0 then
          local score = 0
          for c = 1, d do
            local q, k = rows[i][h * d + c], rows[j][D + h * d + c]
            score = score + (q + t.content_bias[h * d + c]) * k
              + (q + t.position_bias[h * d + c]) * waves[i - j][h * d + c]
          end
          seen[#seen + 1] = { j, score / math.sqrt(d) }
          top = math.max(top, score / math.sqrt(d))
        end
      end
      for _, s in ipairs(seen) do
        s[2] = math.exp(s[2] - top)
        sum = sum + s[2]
      end
      for c = 1, d do
        out[c] = 0
        for _, s in ipairs(seen) do out[c] = out[c] + s[2] / sum * rows[s[1]][2 * D + h * d + c] end
        heads_out[i][h * d + c] = out[c]
      end
    end
  end
  local y = {}
  for i = 1, L do y[i] = product(t["out.weight"], heads_out[i], 0, D) end
  return y
end

describe("relative positions", function()
  for _, case in ipairs { { window = 5 }, { window = 300 }, { window = 4, dilation = 3 } } do
    it(("are those of the paper: window %d, dilation %d"):format(case.window, case.dilation or 1),
       function()
      local D, heads, L = 12, 3, 140
      local layer = pf.nn.attention { dim = D, heads = heads, causal = true, relative = true,
        bias = false, attention = { name = "sliding", window = case.window,
                                    dilation = case.dilation } }
      local t = {}
      for name, tensor in pairs(layer:tensors()) do t[name] = array.of(tensor) end
      local x = array.random(4):normals { 1, L, D }
      local list = {}
      for i = 1, L do
        list[i] = {}
        for c = 1, D do list[i][c] = x[(i - 1) * D + c] end
      end
      local want = defined(t, list, heads, case.window, case.dilation or 1)
      local got = layer(array.tensor(x))
      assert.is_true(largest(got, pf.tensor { want }) < 2e-6 * got:abs():max():item() + 1e-6)
      local state = layer:state()
      local first = layer:prefill(array.tensor(x):slice(2, 1, L - 1), state)
      local last = layer:step(array.tensor(x):slice(2, L, L):reshape(1, D), state)
      assert.is_true(largest(pf.concat({ first:reshape(L - 1, D), last }, 1), got:reshape(L, D))
        < 1e-5)
    end)
  end

  local L = 300
  local x, target = models.ids(2, L, 19, 1), models.ids(2, L, 19, 2)
  for name, options in pairs { ["one after the other"] = {}, grouped = { kv_heads = 1 },
                               dilated = { dilation = 3 }, recompute = { recompute = true },
                               reversible = { reversible = true }, norms = { qk_norm = true } } do
    it("train, by slices too, and go on from rows before: " .. name, function()
      local o = { positions = "relative", layers = 2,
                  attention = { name = "sliding", window = 40, dilation = options.dilation } }
      options.dilation = nil
      for key, value in pairs(options) do o[key] = value end
      local model, batch = models.new(o), { input = x, target = target }
      local function gradients()
        local list = {}
        for key, t in pairs(model:tensors()) do list[key] = t:grad() and t:grad():detach() end
        model:clear_grad()
        return list
      end
      do
        local tape <close> = pf.tape()
        tape:backward(model:loss(batch))
      end
      local want = gradients()
      model:backward_sliced(batch, { slices = 4 })
      local got = gradients()
      for key, g in pairs(want) do
        assert.is_true(largest(g, got[key]) <= 1e-5 * g:abs():max():item() + 1e-9, key)
      end
      assert.is_truthy(want["blocks.1.attention.position_bias"])
      local carry, list, cuts = model:carry { batch = 2 }, {}, { 0, 50, 133, L }
      for i = 1, 3 do
        list[i] = model(x:slice(2, cuts[i] + 1, cuts[i + 1]), { carry = carry })
      end
      assert.is_true(largest(pf.concat(list, 2), model(x)) < 1e-5)
      local folder = support.folder()
      assert(pf.checkpoint.save(folder, { model = model }))
      assert.equal(0, largest(model(x), assert(pf.checkpoint.model(folder))(x)))
      support.remove(folder)
    end)
  end

  it("are for causal windows", function()
    for text, options in pairs {
      ["not favor attention"] = {}, ["not exact attention"] = { attention = "exact" },
      ["no distances of global tokens"] = { attention = { name = "sliding", global = 2 } },
      ["not full sliding attention"] = { attention = "sliding", causal = false },
      ["at most 65536"] = { attention = { name = "sliding", window = 70000 } },
    } do
      options.positions = "relative"
      local fine, message = pcall(models.new, options)
      assert.is_false(fine)
      assert.is_truthy(tostring(message):find(text, 1, true), tostring(message))
    end
    local fine, message = pcall(pf.nn.attention, { dim = 8, heads = 2, causal = true,
      attention = "sliding", rotary = true, relative = true })
    assert.is_false(fine)
    assert.is_truthy(tostring(message):find("give one", 1, true))
  end)
end)
