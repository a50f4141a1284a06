-- advise_spec.lua - the error told beforehand: theory against Monte Carlo for every softmax map and
-- kind of rows, advice that holds when it is followed, the report and the warning of training,
-- and the choice of exact or linear attention, made once and kept.
local pf = require "performer"
local core = require "performer.core"
local support = require "spec.support"
local trainer = require "performer.trainer"

local SIGMAS = 4.5 -- of a mean over independent draws, with a handful of hundred comparisons

local function softmax_maps()
  local list = {}
  for _, map in ipairs(pf.kernels().maps) do
    if map.softmax then list[#list + 1] = map end
  end
  return list
end

local function kernel_of(map, options)
  if map.tilted then options.tilt = -0.04 end
  return pf.kernel[map.name](options)
end

--- (1, 1, n, d) rows of |x| about `norm`.
local function rows(n, d, norm) return pf.randn(1, 1, n, d) * (norm * d ^ -0.5) end

-- ---- theory ----------------------------------------------------------------------------

describe("the predicted error", function()
  local d, m = 8, 20

  it("is the closed form for independent rows", function()
    local s, t, A = 1.3, 0.7, -0.06
    local function of(name, options)
      options.head_dim, options.features, options.rows = d, m, "iid"
      return pf.kernel[name](options):predict(s, t).rel_mse
    end
    assert.near((math.exp(s) - 1) / m, of("softmax", {}), 1e-12)
    assert.near(0.5 * (1 - math.exp(-s)) * (math.exp(s) - 1) / m, of("softmax_hyp", {}), 1e-12)
    assert.near(math.exp(t) * (1 - math.exp(-t)) ^ 2 / (2 * m), of("softmax_trig", {}), 1e-12)
    local square = (1 - 4 * A) ^ d * (1 - 8 * A) ^ (-d / 2) *
      math.exp(2 * (1 - 4 * A) * s / (1 - 8 * A) - s)
    assert.near((square - 1) / m, of("softmax_plus", { tilt = A }), 1e-12)
    assert.near((math.exp(s) - 1) / m, of("softmax_plus", { tilt = 0 }), 1e-12)
  end)

  it("is what Monte Carlo measures, for every softmax map and kind of rows", function()
    -- Features of 20 = 8 + 8 + 4 rows: the last block is a short one.
    pf.seed(5)
    local q, k = rows(6, d, 0.8), rows(6, d, 0.8)
    for _, map in ipairs(softmax_maps()) do
      for _, kind in ipairs { "iid", "orthogonal", "simplex" } do
        local kernel = kernel_of(map, { head_dim = d, features = m, rows = kind, scale = 1,
                                        seed = 11 })
        local r = pf.attention.compare(kernel, { q = q, k = k, v = k, draws = 6000 }).heads[1]
        local what = map.name .. ", " .. kind
        local gap = math.abs(r.measured_rel_mse - r.coupled_rel_mse)
        assert.is_true(gap <= SIGMAS * r.measured_deviation, ("%s: predicted %.4g, measured %.4g "
          .. "+- %.2g"):format(what, r.coupled_rel_mse, r.measured_rel_mse, r.measured_deviation))
        -- The test can see differences: it is no test of nothing.
        assert.is_true(SIGMAS * r.measured_deviation < r.coupled_rel_mse, what)
        local off = r.bias - r.predicted_bias
        assert.is_true(math.abs(off * r.bias_sigma) <= SIGMAS * math.abs(r.bias), what .. ": bias")
        assert.equal(map.regular, r.predicted_bias ~= 0)
        if kind == "iid" then
          assert.equal(r.predicted_rel_mse, r.coupled_rel_mse)
        else
          assert.is_true(r.coupled_rel_mse < r.predicted_rel_mse, what)
          assert.is_true(r.measured_rel_mse < r.predicted_rel_mse, what .. ", measured")
        end
      end
    end
  end)

  it("does not reach for what it can't know, and stays finite", function()
    local kernel = pf.kernel.softmax { head_dim = 64, features = 256 }
    assert.equal(1e300, kernel:predict(1e9).rel_mse)
    assert.equal(0, kernel:predict(0).rel_mse)
    assert.near((math.exp(16) - 1) / 256, kernel:predict(16).rel_mse, 1)
    assert.raises("estimates no softmax", function() pf.kernel.relu {}:predict(1) end)
    assert.raises("head_dim is needed", function() pf.kernel.softmax {}:predict(1) end)
    assert.raises("must be numbers from 0", function() kernel:predict(-1) end)
    local nan = pf.full({ 1, 1, 2, 64 }, 0 / 0)
    local head = core.survey_kernel({ name = "softmax" }, nan, nan, {})[1]
    assert.equal(1e300, head.mean.rel_mse)
    assert.equal(0, core.survey_kernel({ name = "softmax" }, pf.zeros(0, 1, 3, 8),
      pf.zeros(0, 1, 3, 8), { draws = 2 })[1].pairs)
  end)
end)

-- ---- compare ---------------------------------------------------------------------------

describe("attention.compare", function()
  it("tells every head apart", function()
    pf.seed(2)
    local q = pf.concat({ pf.randn(2, 1, 40, 16) * 0.3, pf.randn(2, 1, 40, 16) }, 2)
    local v = pf.randn(2, 2, 40, 16)
    local kernel = pf.kernel.softmax { head_dim = 16, features = 64, seed = 3 }
    for _, causal in ipairs { false, true } do
      local report = pf.attention.compare(kernel, { q = q, k = q, v = v, causal = causal })
      local small, large = report.heads[1], report.heads[2]
      assert.is_true(small.sum < 0.2 * large.sum)
      assert.is_true(small.predicted_rel_mse < 0.1 * large.predicted_rel_mse)
      assert.is_true(small.error < large.error and small.rms_error < large.rms_error)
      assert.equal(report.error, large.error)
      assert.near(small.query, (q:slice(2, 1, 1) ^ 2):sum(-1):mean():item() / 4, 0.1)
      assert.equal(2 * 32 * (causal and 33 / 2 or 32), small.pairs)
      assert.is_true(report.ms > 0 and report.exact_ms > 0)
      assert.matches("predicted", tostring(report))
    end
  end)

  it("judges a kernel by the scale that it has", function()
    pf.seed(3)
    local q, v = pf.randn(1, 1, 16, 8) * 0.3, pf.randn(1, 1, 16, 8)
    local kernel = pf.kernel.softmax { head_dim = 8, features = 8192, scale = 0.9, seed = 1 }
    assert.is_true(pf.attention.compare(kernel, { q = q, k = q, v = v, draws = 2 }).error < 0.1)
  end)

  it("measures a given projection, and says nothing of maps that estimate nothing", function()
    pf.seed(4)
    local given = pf.kernel.softmax { projection = pf.randn(32, 8) }
    local head = pf.attention.compare(given, { length = 20, dim = 8 }).heads[1]
    assert.is_true(head.measured_rel_mse > 0)
    assert.equal(0, head.bias_sigma)
    for _, kernel in ipairs { pf.kernel.relu {}, pf.kernel.custom {
      map = function(x) return x:elu() + 1 end } } do
      local report = pf.attention.compare(kernel, { length = 20, dim = 8, heads = 2 })
      assert.is_nil(report.predicted_rel_mse)
      assert.is_nil(report.bias_sigma)
      assert.is_true(report.error > 0)
    end
    assert.raises("q, k and v go together", function()
      pf.attention.compare("softmax", { q = pf.ones(1, 1, 2, 4) })
    end)
    assert.raises("k must be a tensor %(B, H, L, d%), got %[2%]", function()
      pf.attention.compare("softmax", { q = pf.ones(1, 1, 2, 4), k = pf.ones(2), v = pf.ones(1) })
    end)
  end)
end)

-- ---- advise ----------------------------------------------------------------------------

describe("kernel:advise", function()
  local d, tolerance = 32, 0.25

  --- What a kernel is off by on these rows, measured; and its standard error.
  local function measured(kernel, q, k)
    local r = pf.attention.compare(kernel, { q = q, k = k, v = k, draws = 60 })
    local sum, spread = 0, 0
    for _, head in ipairs(r.heads) do
      sum, spread = sum + head.measured_rel_mse, math.max(spread, head.measured_deviation)
    end
    return sum / #r.heads, spread / math.sqrt(#r.heads)
  end

  it("finds features and a map that hold the tolerance when followed", function()
    pf.seed(6)
    local q, k = pf.randn(1, 2, 64, d) * 1.1 * d ^ -0.25, pf.randn(1, 2, 64, d) * 1.1 * d ^ -0.25
    local kernel = pf.kernel.softmax { head_dim = d, features = 64, seed = 2 }
    local advice = kernel:advise(q, k, { tolerance = tolerance })
    assert.is_false(advice.current.meets)
    assert.is_false(advice.hopeless)
    assert.is_true(advice.meets and advice.features <= 1024 and not advice.qk_norm)
    assert.is_true(advice.predicted_error <= tolerance)
    local mse, deviation = measured(advice:kernel(), q, k)
    assert.is_true(mse - SIGMAS * deviation <= tolerance ^ 2)
    -- It is not generous either: what it holds is close, and half the features don't.
    assert.is_true(mse + SIGMAS * deviation >= 0.5 * tolerance ^ 2)
    local text = tostring(advice)
    for _, word in ipairs { "softmax_hyp", "softmax_plus", "advised: " .. advice.map } do
      assert.is_truthy(text:find(word, 1, true), text)
    end
  end)

  it("normalises queries and keys that are too long, and says that all else is hopeless", function()
    pf.seed(7)
    local q, k = pf.randn(1, 2, 64, d) * 3 * d ^ -0.25, pf.randn(1, 2, 64, d) * 3 * d ^ -0.25
    local kernel = pf.kernel.softmax { head_dim = d, features = 256, seed = 2 }
    local advice = kernel:advise(q, k, { tolerance = 0.35 })
    assert.is_true(advice.hopeless and advice.qk_norm and advice.meets)
    local scales, relu = 0, false
    for _, entry in ipairs(advice.candidates) do
      relu = relu or entry.map == "relu"
      if entry.factor then
        scales = scales + 1
        assert.is_true(entry.meets and entry.factor < 1)
        local mse, deviation = measured(pf.kernel[entry.map] { head_dim = d, seed = 9,
          features = entry.features, scale = entry.scale, tilt = entry.tilt }, q, k)
        assert.is_true(mse - SIGMAS * deviation <= 0.35 ^ 2)
      end
    end
    assert.equal(1, scales)
    assert.is_true(relu)
    -- As a layer's qk_norm does: |x|^2 = 2.
    local ones = pf.full({ d }, 2 ^ 0.5 * d ^ -0.25)
    local mse, deviation = measured(advice:kernel(), q:rmsnorm(ones), k:rmsnorm(ones))
    assert.is_true(mse - SIGMAS * deviation <= 0.35 ^ 2)
    assert.matches("says nothing of softmax", tostring(advice))
  end)

  it("refuses what it can't advise on", function()
    local q = pf.ones(1, 1, 4, 8)
    local kernel = pf.kernel.softmax { head_dim = 8 }
    assert.raises("estimates no softmax", function() pf.kernel.relu {}:advise(q, q) end)
    assert.raises("queries and keys are needed", function() kernel:advise(q) end)
    assert.raises("tolerance must be more than 0", function()
      kernel:advise(q, q, { tolerance = 0 })
    end)
    assert.raises("did you mean 'tolerance'", function() kernel:advise(q, q, { toleranze = 1 }) end)
  end)
end)

-- ---- what a model saw ------------------------------------------------------------------

local function model_of(options)
  local o = { vocab = 31, dim = 32, layers = 2, heads = 2, causal = true, length = 48,
              kernel = { name = "softmax", features = 32, seed = 3 } }
  for key, value in pairs(options or {}) do o[key] = value end
  return pf.nn.performer(o)
end

local function ids(seed)
  local list = {}
  for b = 1, 2 do
    list[b] = {}
    for i = 1, 48 do list[b][i] = (i * i * 7 + b * 13 + i * seed) % 31 end
  end
  return pf.tensor(list, { dtype = "i32" })
end

--- One training step's loss and gradients; `pass` as the model takes it.
local function train_once(model, pass)
  local tape <close> = pf.tape()
  local loss = model(ids(1), pass):cross_entropy(ids(2))
  tape:backward(loss)
  return loss:item()
end

describe("model:attention_report", function()
  it("tells what a watched training step saw, and changes no bit of it", function()
    pf.seed(1)
    local plain = model_of()
    pf.seed(1)
    local watched = model_of()
    assert.equal(0, #watched:attention_report())
    watched(ids(1), { training = false, watch = true })
    assert.equal(0, #watched:attention_report(), "evaluation does not look")
    local a = train_once(plain, { training = true, step = 3 })
    local b = train_once(watched, { training = true, step = 3, watch = true })
    assert.equal(a, b)
    local want, got = plain:tensors(), watched:tensors()
    for name, t in pf.sorted(want) do
      if t:wants_grad() then assert.bits_equal(t:grad(), got[name]:grad()) end
    end
    assert.equal(0, #plain:attention_report(), "step 3 is none of those that look by themselves")
    local report = watched:attention_report()
    assert.equal(4, #report)
    assert.equal("blocks.2.attention", report[3].layer)
    assert.equal(2, report[4].head)
    assert.equal(3, report[1].step)
    assert.equal("softmax", report[1].map)
    assert.is_true(report[1].query > 0 and report[1].sum > 0)
    assert.is_true(report[1].predicted_rel_mse > 0)
    assert.matches("blocks.1.attention", tostring(report))
    train_once(plain, { training = true, step = 32 })
    assert.equal(4, #plain:attention_report(), "every 16th step looks")
    assert.equal(0, #model_of { kernel = "exact" }:attention_report())
  end)

  it("has the numbers of the rows: with qk_norm |x|^2 is 2", function()
    local model = model_of { qk_norm = true }
    train_once(model, { training = true, watch = true })
    for _, line in ipairs(model:attention_report()) do
      assert.near(2, line.query, 1e-3)
      assert.near(2, line.key, 1e-3)
      assert.is_true(line.sum > 2 and line.sum < 6)
    end
  end)

  it("warns of a hopeless scale, and of no other", function()
    local model = model_of { qk_norm = true }
    train_once(model, { training = true, watch = true })
    assert.is_nil(trainer.attention_warning(model))
    assert.equal(2, #trainer.attention_record(model))
    local bad = model_of { qk_norm = true, kernel = { name = "softmax", features = 32, seed = 3,
                                                      scale = 1.5 } }
    assert.is_nil(trainer.attention_warning(bad))
    assert.is_nil(trainer.attention_record(bad))
    train_once(bad, { training = true, watch = true })
    local text = trainer.attention_warning(bad)
    for _, word in ipairs { "hopeless", "qk_norm", "scale", "softmax_hyp", "softmax_plus",
                            "relu" } do
      assert.is_truthy(text:find(word, 1, true), text)
    end
    assert.is_nil(text:find "\n")
  end)
end)

-- ---- exact or linear -------------------------------------------------------------------

describe("the crossover", function()
  after_each(function() pf.attention.use_crossover(nil) end)

  it("is its table at the rows, grows with the features, and lies between", function()
    local list = pf.attention.crossover()
    assert.is_true(#list >= 8)
    for _, row in ipairs(list) do
      assert.near(row.length, pf.attention.crossover { head_dim = row.head_dim,
        features = row.features, causal = row.causal }, 1e-6 * row.length)
    end
    for _, causal in ipairs { false, true } do
      local last = 0
      for _, features in ipairs { 16, 64, 200, 256, 300, 1000, 5000 } do
        local length = pf.attention.crossover { head_dim = 48, features = features,
                                                causal = causal }
        assert.is_true(length > last)
        last = length
      end
    end
  end)

  it("can be another machine's, from a table or a file", function()
    local path = os.tmpname()
    finally(function() os.remove(path) end)
    local before = pf.attention.crossover { features = 256 }
    assert.is_true(pf.attention.use_crossover { rows = {
      { head_dim = 16, features = 100, causal = false, length = 100 },
      { head_dim = 64, features = 100, causal = false, length = 400 } } })
    assert.near(200, pf.attention.crossover { head_dim = 32, features = 100 }, 1e-6)
    assert.near(600, pf.attention.crossover { head_dim = 32, features = 300 }, 1e-6)
    assert.near(100, pf.attention.crossover { head_dim = 8, features = 100 }, 1e-6)
    assert.raises("no rows for causal", function() pf.attention.crossover { causal = true } end)
    support.write(path, '{"rows":[{"head_dim":64,"features":256,"causal":false,"length":77}]}')
    assert.is_true(pf.attention.use_crossover(path))
    assert.near(77, pf.attention.crossover { features = 256 }, 1e-6)
    for text, why in pairs { ["{"] = "", ["3"] = "no table", ['{"rows":[]}'] = "1 to",
                             ['{"rows":[{"head_dim":64}]}'] = "row 1" } do
      support.write(path, text)
      local ok, message, code = pf.attention.use_crossover(path)
      assert.is_nil(ok)
      assert.is_truthy(message:find(why, 1, true), message)
      assert.equal("PF_EFORMAT", code)
    end
    assert.near(77, pf.attention.crossover { features = 256 }, 1e-6, "a bad file changes nothing")
    local _, _, code = pf.attention.use_crossover "/nonexistent/file"
    assert.equal("PF_ENOTFOUND", code)
    pf.attention.use_crossover(nil)
    assert.equal(before, pf.attention.crossover { features = 256 })
  end)
end)

describe("attention auto", function()
  local function auto(length, options)
    local o = { attention = "auto", length = length }
    for key, value in pairs(options or {}) do o[key] = value end
    return model_of(o)
  end

  it("chooses by the length, and says so", function()
    local short, long = auto(8), auto(100000)
    assert.equal("exact", short:options().attention)
    assert.equal("favor", long:options().attention)
    assert.matches("length 8 is below", short:options().chosen)
    assert.matches("length 100000 is not below", long:options().chosen)
    assert.matches("chosen = \"auto: length 8", tostring(short))
    assert.is_nil(short:tensors()["blocks.1.attention.projection"])
    assert.is_truthy(long:tensors()["blocks.1.attention.projection"])
    local layer = short:tree()
    assert.equal("exact", layer.options.attention)
    -- The same, where it is the kernel's name.
    local named = model_of { length = 100000, kernel = { name = "auto", features = 32, seed = 3 } }
    assert.equal("favor", named:options().attention)
    assert.equal("softmax", named:options().kernel.name)
    assert.equal("exact", model_of { length = 8, kernel = "auto" }:options().attention)
    -- What is not auto is not chosen for.
    assert.is_nil(model_of {}:options().chosen)
    assert.equal("kernel", model_of {}:options().attention)
  end)

  it("works in a block and a layer that know the length", function()
    local block = pf.nn.block { dim = 32, heads = 2, attention = "auto", length = 8 }
    assert.equal("exact", block:options().attention)
    local layer = pf.nn.attention { dim = 32, heads = 2, attention = "auto", length = 1000000 }
    assert.equal("favor", layer:options().attention)
    assert.raises("needs the option length", function()
      pf.nn.attention { dim = 32, heads = 2, attention = "auto" }
    end)
    for _, kernel in ipairs { { name = "relu" }, { name = "softmax", scale = 0.5 } } do
      assert.raises("softmax one with its own scale", function() auto(8, { kernel = kernel }) end)
    end
  end)

  it("stays what it was chosen to be, in a file and under another table", function()
    local folder = support.folder()
    finally(function()
      support.remove(folder)
      pf.attention.use_crossover(nil)
    end)
    for name, length in pairs { exact = 8, favor = 100000 } do
      local model = auto(length)
      local want = model(ids(1))
      assert(pf.checkpoint.save(folder .. "/" .. name, { model = model, step = 1 }))
      -- A machine where everything crosses elsewhere.
      assert.is_true(pf.attention.use_crossover { rows = {
        { head_dim = 16, features = 32, causal = true, length = name == "exact" and 1 or 1e9 } } })
      assert.equal(name == "exact" and "favor" or "exact", auto(length):options().attention)
      local loaded = assert(pf.checkpoint.model(folder .. "/" .. name))
      assert.equal(name, loaded:options().attention)
      assert.equal(model:options().chosen, loaded:options().chosen)
      assert.bits_equal(want, loaded(ids(1)))
      pf.attention.use_crossover(nil)
    end
  end)
end)

-- ---- the commands ----------------------------------------------------------------------

describe("performer train", function()
  local folder = support.folder()
  teardown(function() support.remove(folder) end)
  local text = {}
  for i = 1, 1500 do text[i] = ("%d of %d,"):format(i * 7919 % 97, i * i % 89) end
  support.write(folder .. "/t.txt", table.concat(text, " "))

  local function train(out, more)
    local code, _, err = support.performer(("train --data %s/t.txt --out %s/%s --dim 16 --layers 1 "
      .. "--heads 2 --features 16 --length 32 --batch 2 --steps 24 --eval-every 8 --threads 1 %s")
      :format(folder, folder, out, more))
    assert.equal(0, code, err)
    local records = {}
    for line in support.read(("%s/%s/log.jsonl"):format(folder, out)):gmatch "[^\n]+" do
      records[#records + 1] = pf.json.decode(line)
    end
    return err, records
  end

  it("warns once of a hopeless scale, and writes the report at evaluation", function()
    local err, records = train("bad", "--scale 2")
    local _, times = err:gsub("hopeless", "")
    assert.equal(1, times, err)
    local seen = 0
    for _, r in ipairs(records) do
      if r.valid_loss and not r.final then
        seen = seen + 1
        assert.equal("blocks.1.attention", r.attention[1].layer)
        assert.equal(2, #r.attention[1].predicted_rel_mse)
        assert.is_true(r.attention[1].predicted_rel_mse[1] > 100)
      end
    end
    assert.equal(2, seen)
    err = train("good", "")
    assert.is_nil(err:find "hopeless")
  end)

  it("chooses with --attention auto and --crossover, and says what", function()
    local err = train("auto", "--attention auto")
    assert.is_truthy(err:find "exact attention, chosen by auto")
    assert.is_truthy(err:find "auto: length 32 is below")
    support.write(folder .. "/c.json",
      '{"rows":[{"head_dim":8,"features":16,"causal":true,"length":2}]}')
    err = train("other", ("--attention auto --crossover %s/c.json"):format(folder))
    assert.is_truthy(err:find "softmax attention, chosen by auto")
    local model = assert(pf.checkpoint.model(folder .. "/other"))
    assert.equal("favor", model:options().attention)
    local code, _, message = support.performer(("train --data %s/t.txt --out %s/none --steps 1 "
      .. "--crossover %s/t.txt"):format(folder, folder, folder))
    assert.equal(1, code)
    assert.is_truthy(message:find "t.txt", message)
  end)
end)

describe("performer bench", function()
  it("crossover writes a table that auto takes", function()
    local path = os.tmpname()
    finally(function()
      os.remove(path)
      pf.attention.use_crossover(nil)
    end)
    local code, out, err = support.performer(("bench crossover --json --heads 1 --head-dim 8 "
      .. "--features 8 --repeats 1 --out %s"):format(path))
    assert.equal(0, code, err)
    local seen = {}
    for line in out:gmatch "[^\n]+" do
      local r = pf.json.decode(line)
      seen[tostring(r.causal)] = r
      assert.equal("integer", math.type(r.L))
      assert.is_true(r.exact_ms > 0 and r.favor_ms > 0)
    end
    assert(pf.attention.use_crossover(path))
    for _, causal in ipairs { false, true } do
      assert.near(seen[tostring(causal)].L, pf.attention.crossover { head_dim = 8, features = 8,
        causal = causal }, 1e-6 * seen[tostring(causal)].L)
    end
  end)

  it("features prints every softmax map, predicted and measured", function()
    local code, out, err = support.performer("bench features --json --head-dim 8 --features 16 "
      .. "--norm 1 --draws 400")
    assert.equal(0, code, err)
    local maps = {}
    for line in out:gmatch "[^\n]+" do
      local r = pf.json.decode(line)
      maps[r.kernel] = (maps[r.kernel] or 0) + 1
      local gap = math.abs(r.measured_rel_mse - r.coupled_rel_mse)
      assert.is_true(gap <= SIGMAS * r.measured_deviation, line)
      if r.predicted_bias == 0 then
        assert.is_true(math.abs(r.bias_sigma) < SIGMAS, line)
        assert.is_true(math.abs(r.bias_sigma_negative) < SIGMAS, line)
      end
    end
    for _, map in ipairs(softmax_maps()) do assert.equal(3, maps[map.name], map.name) end
    assert.equal(2, (support.performer "bench features --kernel relu"))
  end)
end)
