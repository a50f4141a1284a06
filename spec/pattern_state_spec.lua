-- pattern_state_spec.lua - streams of the kinds of attention that are patterns: prefill and steps
-- have the bits of the whole row, saved, forked and merged too; windows in constant memory. Windows
-- in parts of a row: the gradient of the whole, and rows that go on. The spec loops over the kinds.
local pf = require "performer"
local models = require "spec.support.models"
local patterns = require "spec.support.patterns"
local support = require "spec.support"

local B, H, HK, D, L = 2, 4, 2, 16, 700
local CUTS = { 1, 130, 1, 1, 1, 200, 100, 1, 1, 264 }

local function largest(a, b) return (a - b):abs():max():item() end

--- The kinds that have a rule, whose keys are told by no layer's buckets.
local function kinds()
  local rules, list = {}, {}
  for _, rule in ipairs(pf.patterns()) do rules[rule.name] = not rule.buckets end
  for _, kind in ipairs(pf.kinds()) do
    if rules[kind.name] then list[#list + 1] = kind end
  end
  return list
end

local function text_of(name, options)
  local parts = {}
  for key, value in pf.sorted(options) do parts[#parts + 1] = ("%s = %s"):format(key, value) end
  return ("%s { %s }"):format(name, table.concat(parts, ", "))
end

local function with(options, more)
  local all = {}
  for _, t in ipairs { options, more } do
    for key, value in pairs(t) do all[key] = value end
  end
  return all
end

local function samples(kind)
  local list = {}
  for _, sample in ipairs(patterns.samples[kind.name]) do
    if (sample.least or 0) <= 500 and (sample.options.ahead or 0) <= 0 then
      list[#list + 1] = sample.options
    end
  end
  -- More first tokens than a short stretch has, which the later one then brings.
  if kind.state_slides then list[#list + 1] = { window = 20, global = 130 } end
  return list
end

pf.seed(5)
local q, k, v = pf.randn(B, H, L, D), pf.randn(B, HK, L, D), pf.randn(B, HK, L, D)
local decay = pf.tensor { 0.01, 0.2 }

local function rows(first, last)
  return q:slice(3, first, last), k:slice(3, first, last), v:slice(3, first, last)
end

for _, kind in ipairs(kinds()) do
  describe(kind.name .. " attention", function()
    it("streams, or says why not", function()
      if kind.streams then return end
      local fine, message = pcall(pf.attention.state, { attention = kind.name, head_dim = D })
      assert.is_false(fine)
      assert.is_truthy(tostring(message):find "can't stream")
    end)
    if not kind.streams then return end

    for _, options in ipairs(samples(kind)) do
      local name = text_of(kind.name, options)
      local function whole(d)
        return pf.attention[kind.name](q, k, v, with(options, { causal = true, decay = d }))
      end
      local function new_state(d)
        return pf.attention.state(with(options, { attention = kind.name, batch = B, heads = HK,
          head_dim = D, decay = d }))
      end

      it("has the bits of the whole row: " .. name, function()
        local folder = support.folder()
        for _, d in ipairs { false, decay } do
          local state, list, at = new_state(d or nil), {}, 0
          for i, n in ipairs(CUTS) do
            list[i] = (n == 1 and state.step or state.prefill)(state, rows(at + 1, at + n))
            at = at + n
            if i == 5 or i == 8 then
              state:save(folder .. "/state")
              state = assert(pf.attention.load_state(folder .. "/state"))
            end
            if i == 7 then state = state:fork() end
          end
          assert.equal(0, largest(pf.concat(list, 3), whole(d or nil)))
        end
        support.remove(folder)
      end)

      it("joins two stretches: " .. name, function()
        local want = whole():slice(3, 601, L)
        for _, cut in ipairs { 5, 100, 256, 470 } do
          local first, later = new_state(), new_state()
          first:prefill(rows(1, cut))
          later:prefill(rows(cut + 1, 600))
          first:merge(later)
          assert.equal(600, first:position())
          assert.is_true(largest(first:prefill(rows(601, L)), want) < 1e-5)
        end
      end)
    end
  end)
end

describe("a window", function()
  it("streams in constant memory", function()
    for _, options in ipairs { { window = 100 }, { window = 100, global = 3 },
                               { window = 20, dilation = 3 } } do
      local state = pf.attention.state(with(options, { attention = "sliding", heads = HK,
                                                       head_dim = D, batch = B }))
      local most, late = 0, 0
      for round = 1, 6 do
        for at = 1, L, 50 do
          state:prefill(rows(at, at + 49))
          if round <= 2 then most = math.max(most, state:bytes()) end
          late = math.max(late, state:bytes())
        end
      end
      assert.equal(most, late)
      local reach = (options.window - 1) * (options.dilation or 1)
      assert.is_true(late < 2 * B * HK * D * 4 * (2 * reach + 700))
    end
  end)

  local function ids(f) return models.ids_of(B, L, f) end

  local x, target = models.ids(B, L, 19, 1), models.ids(B, L, 19, 2)
  local packed = ids(function(b, t) return (t + 13 * b) // 90 end)
  local there = ids(function(b, t) return t == 200 + b and 0 or 1 end)
  local passes = { ["one document"] = {}, ["packed ones"] = { documents = packed },
                   ["packed ones, masked"] = { documents = packed, mask = there } }
  local MODELS = {
    { window = 40 }, { window = 1 }, { window = 200 }, { window = 9, dilation = 3 },
    { window = 40, model = { kv_heads = 1, decay = 1, conv = 4 } },
    { window = 40, model = { recompute = true } }, { window = 40, model = { reversible = true } },
  }

  local function model_of(case)
    return models.new(with({ layers = 2, attention = { name = "sliding", window = case.window,
                             dilation = case.dilation } }, case.model or {}))
  end

  local function gradients(model)
    local list = {}
    for name, t in pairs(model:tensors()) do list[name] = t:grad() and t:grad():detach() end
    model:clear_grad()
    return list
  end

  for _, case in ipairs(MODELS) do
    local name = text_of("sliding", with({ window = case.window }, case.model or {}))
    it("has the gradient of the whole row in slices: " .. name, function()
      local model = model_of(case)
      for _, pass in pairs(passes) do
        local batch = with({ input = x, target = target }, pass)
        local loss
        do
          local tape <close> = pf.tape()
          local mean = model:loss(batch)
          loss = mean:item()
          tape:backward(mean)
        end
        local want = gradients(model)
        for _, how in ipairs { { slices = 3 }, { slice_length = 128 },
                               { slice_length = 50, levels = 2 } } do
          assert.near(loss, model:backward_sliced(batch, how), 1e-6)
          local got = gradients(model)
          for key, g in pairs(want) do
            assert.is_true(largest(g, got[key]) <= 1e-5 * g:abs():max():item(), key)
          end
        end
        local sums = model:evaluate(batch, { slice_length = 64 })
        assert.near(loss, sums.loss / sums.tokens, 1e-6)
      end
    end)

    it("goes on from rows before, with the bits of one long row: " .. name, function()
      local model, folder = model_of(case), support.folder()
      for told, pass in pairs(passes) do
        local carry, list, cuts = model:carry { batch = B }, {}, { 0, 5, 133, 300, 301, 512, L }
        for i = 1, #cuts - 1 do
          local row = {}
          for key, t in pairs(with({ input = x }, pass)) do
            row[key] = t:slice(2, cuts[i] + 1, cuts[i + 1])
          end
          list[i] = model(row, { carry = carry })
          if i == 2 or i == 4 then
            carry:save(folder .. "/carry")
            carry = assert(model:load_state(folder .. "/carry"))
          end
        end
        local apart = largest(pf.concat(list, 2), model(with({ input = x }, pass)))
        assert.is_true(apart <= (told == "one document" and not case.model and 0 or 1e-5))
      end
      support.remove(folder)
    end)
  end

  -- The inputs of layers are kept: the same outputs, but for weights that have moved since.
  for _, case in ipairs {
    { window = 40 }, { window = 9, dilation = 3 },
    { window = 40, model = { positions = "relative" } },
    { window = 40, model = { recompute = true } }, { window = 40, model = { reversible = true } },
    { window = 40, model = { qk_norm = true, kv_heads = 1, decay = 1 } },
  } do
    local name = text_of("sliding", with({ window = case.window }, case.model or {}))
    it("carries rows of its layers: " .. name, function()
      local model, folder = model_of(case), support.folder()
      for told, pass in pairs(passes) do
        local carry, list = model:carry { batch = B, form = "rows" }, {}
        local keys, cuts = model:carry { batch = B }, { 0, 5, 133, 300, 301, 512, L }
        local grads = {}
        for i = 1, #cuts - 1 do
          local row = {}
          for key, t in pairs(with({ input = x, target = target }, pass)) do
            row[key] = t:slice(2, cuts[i] + 1, cuts[i + 1])
          end
          if i == 5 then
            for form, state in pairs { keys = keys:fork(), rows = carry:fork() } do
              local tape <close> = pf.tape()
              tape:backward(model:loss(row, { carry = state }))
              grads[form] = gradients(model)
            end
            model:backward_sliced(row, { slices = 3, carry = carry:fork() })
            grads.sliced = gradients(model)
          end
          model(row, { carry = keys })
          list[i] = model(row, { carry = carry })
          if i == 2 or i == 4 then
            carry:save(folder .. "/carry")
            carry = assert(model:load_state(folder .. "/carry"))
          end
        end
        local apart = largest(pf.concat(list, 2), model(with({ input = x }, pass)))
        assert.is_true(apart <= (told == "one document" and not case.model and 0 or 1e-5))
        -- The weights that make keys of the rows before have a gradient by them.
        local matrix = "blocks.1.attention.qkv.weight"
        assert.is_true(largest(grads.rows[matrix], grads.keys[matrix]) > 1e-4)
        for key, g in pairs(grads.rows) do
          assert.is_true(largest(g, grads.sliced[key]) <= 1e-5 * g:abs():max():item() + 1e-9, key)
        end
      end
      support.remove(folder)
    end)
  end

  it("makes keys of carried rows by the weights as they are then", function()
    local model = models.new { layers = 1, attention = { name = "sliding", window = 40 } }
    local inputs, keys = model:carry { batch = B, form = "rows" }, model:carry { batch = B }
    model(x:slice(2, 1, 100), { carry = inputs })
    model(x:slice(2, 1, 100), { carry = keys })
    local weight = model:tensors()["blocks.1.attention.qkv.weight"]
    weight:copy_(weight * 1.5)
    local want = model(x:slice(2, 1, 200)):slice(2, 101, 200)
    assert.is_true(largest(model(x:slice(2, 101, 200), { carry = inputs }), want) < 1e-5)
    assert.is_true(largest(model(x:slice(2, 101, 200), { carry = keys }), want) > 1e-3)
  end)

  it("sees as many keys of the rows before as are kept", function()
    local function carried(m, keep)
      local carry = m:carry { batch = B, keep = keep }
      for at = 1, 300, 100 do m(x:slice(2, at, at + 99), { carry = carry }) end
      return m(x:slice(2, 301, 301), { carry = carry }) -- the query itself, and what is carried
    end
    local function carried_rows(m, keep)
      local carry = m:carry { batch = B, keep = keep, form = "rows" }
      for at = 1, 300, 100 do m(x:slice(2, at, at + 99), { carry = carry }) end
      return m(x:slice(2, 301, 301), { carry = carry })
    end
    local function of(window)
      return models.new { layers = 1, attention = { name = "sliding", window = window } }
    end
    assert.is_true(largest(carried(of(400), 30), carried(of(31))) < 1e-5)
    assert.is_true(largest(carried(of(400), 31), carried(of(31))) > 1e-5)
    assert.is_true(largest(carried_rows(of(400), 30), carried(of(31))) < 1e-5)
    assert.is_true(largest(carried_rows(of(400), 31), carried(of(31))) > 1e-5)
  end)

  it("that has global tokens takes whole rows, and says so", function()
    local model = models.new { attention = { name = "sliding", window = 9, global = 2 } }
    local fine, message = pcall(model.backward_sliced, model, { input = x, target = target },
                                { slices = 2 })
    assert.is_false(fine)
    assert.is_truthy(tostring(message):find("with global tokens can't go from slice to slice", 1,
                                            true))
    assert.is_true(model:evaluate({ input = x, target = target }).tokens > 0)
  end)

  it("generates what the whole row tells", function()
    local model = model_of { window = 40 }
    local stream = model:stream { batch = B }
    stream:feed(x:slice(2, 1, L - 1))
    local whole = model(x)
    assert.is_true(#stream:sample { temperature = 0 } == B)
    for b, id in ipairs(stream:sample { temperature = 0 }) do
      assert.equal(whole[b][L - 1]:argmax():item() - 1, id)
    end
  end)
end)
