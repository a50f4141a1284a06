-- advise_model_spec.lua - attention that models watch and choose: the report and the warning of
-- training, the length from which linear attention is faster, the choice made once and kept.
local attention = require "kit.attention"
local pf = require "performer"
local support = require "spec.support"

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
    assert.is_nil(attention.warning(model))
    assert.equal(2, #attention.record(model))
    local bad = model_of { qk_norm = true, kernel = { name = "softmax", features = 32, seed = 3,
                                                      scale = 1.5 } }
    assert.is_nil(attention.warning(bad))
    assert.is_nil(attention.record(bad))
    train_once(bad, { training = true, watch = true })
    local text = attention.warning(bad)
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
    assert.equal("favor", model_of {}:options().attention)
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
    assert.equal(3, seen) -- the last one is of some rows, the final of all
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
end)
