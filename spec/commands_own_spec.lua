-- commands_own_spec.lua - training in a way of one's own: a copy of scripts/train.lua with another
-- loss or another model, and every option of the engine's model on the command line.
local commands = require "spec.support.commands"
local lfs = require "lfs"
local pf = require "performer"
local support = require "spec.support"
local train_options = require "kit.train_options"

local assert_sentence, good, log_of = commands.assert_sentence, commands.good, commands.log_of
local losses, path, performer, train = commands.losses, commands.path, commands.performer,
  commands.train

local PROGRAM = support.build .. "/bin/performer"

--- A copy of scripts/train.lua in the spec's folder, with the one place of `pattern` replaced.
local function changed_copy(name, pattern, text)
  local copy, n = support.read "scripts/train.lua":gsub(pattern, function() return text end)
  assert.are.equal(1, n, pattern .. " must stand in train.lua once")
  return support.write(path(name), copy)
end

--- Runs a script of the spec's folder, from that folder; raises with what it said when it fails.
local function run_own(script, arguments)
  local code, out, err = support.shell(("cd %s && OMP_WAIT_POLICY=passive %s %s %s"):format(
    path ".", PROGRAM, script, arguments))
  assert.are.equal(0, code, err)
  return out, err
end

describe("a copy of train.lua", function()
  setup(commands.start)
  teardown(commands.stop)

  it("is short, and shows the loop", function()
    local text = support.read "scripts/train.lua"
    assert.is_true(select(2, text:gsub("\n", "")) <= 110)
    for _, part in ipairs {
      { "function learn", "model(batch", "loss_of(", ":backward(", "for step in", "for batch,",
        "learn(", "optimizer:step", "clip =", "conclude(" },
      { "function conclude", "run:due(", "held_out(", "run:log(", "run:keep(" },
    } do
      local at = 1
      for _, step in ipairs(part) do
        at = text:find(step, at, true)
        assert.is_truthy(at, step .. " is not there, or not in its place")
      end
    end
  end)

  it("trains with a loss of one's own, from any folder, and goes on to the bit", function()
    changed_copy("my_train.lua", "return logits:cross_entropy%(target%)",
      "return logits:cross_entropy(target) + 0.5 * (logits * logits):mean()")
    local more = commands.SMALL .. "--data t.txt --steps 30 --eval-every 10 --log-every 1 "
    run_own("my_train.lua", more .. "--out mine")
    local plain = log_of(train("plain", more:gsub("t.txt", path "t.txt")))
    local mine = log_of(path "mine")
    assert.is_true(mine[1].loss > plain[1].loss)
    assert.is_true(mine[30].loss < mine[1].loss)
    assert.is_true(mine[31].train_loss > mine[31].valid_loss) -- which is cross-entropy alone
    run_own("my_train.lua", "--resume mine/step-20 --out fork --threads 1")
    -- It goes on by itself: train.lua's loss is another.
    local help = run_own("my_train.lua", "--help")
    assert.is_truthy(help:find("Usage: performer my_train.lua ", 1, true))
    assert.is_truthy(help:find("\n  performer my_train.lua --resume ", 1, true))
    local err = select(2, run_own("my_train.lua", "--resume mine"))
    assert.matches("train longer with: %S+/performer my_train%.lua %-%-resume mine", err)
    assert.are.equal(losses(path "mine"), losses(path "fork"))
  end)

  it("trains a model of one's own with layers in Lua, and goes on with it", function()
    changed_copy("own_model.lua",
                 "return train_options%.try%(pf%.nn%.performer, settings%.model%)", [[
      local m = settings.model
      local gate = { name = "gate", inner = pf.nn.linear { from = m.dim, to = m.dim } }
      function gate:forward(x) return x * self.inner(x):sigmoid() end
      return pf.nn.chain { pf.nn.embedding { vocab = m.vocab, dim = m.dim }, gate,
                           pf.nn.linear { from = m.dim, to = m.vocab } }]])
    local more = commands.SMALL .. "--data t.txt --steps 20 --eval-every 10 --log-every 1 "
    run_own("own_model.lua", more .. "--out gated")
    run_own("own_model.lua", "--resume gated/step-10 --out gated2")
    assert.are.equal(losses(path "gated"), losses(path "gated2"))
    local code, _, err = performer("train --resume " .. path "gated/step-10" .. " --out "
      .. path "no")
    assert.are.equal(1, code)
    assert_sentence(err, "gate")
  end)

  it("takes a kit/ of its own first; a command takes the program's", function()
    lfs.mkdir(path "kit")
    support.write(path "kit/cli.lua", "error 'not this one'")
    support.write(path "kit/words.lua", "return 'my own words'")
    support.write(path "says.lua", "print(require 'kit.words', (pcall(require, 'kit.cli')))")
    assert.are.equal("my own words\tfalse\n", (run_own("says.lua", "")))
    assert.matches("Usage: performer train", (run_own("train", "--help")))
    support.shell(("rm -r %s"):format(path "kit"))
  end)
end)

describe("the model's options on the command line", function()
  setup(commands.start)
  teardown(commands.stop)

  --- The options of a finished run's model.
  local function options_of(run) return assert(pf.checkpoint.model(run)):options() end

  -- Those that have a word of another name, or that something else decides.
  local elsewhere = {
    vocab = true, causal = "bidirectional", chosen = true, kernel = true, ngrams = "ngrams",
    decay = "head-decay", name = "attention", head_dim = "head-dim", layer = true,
    seed = "kernel-seed", attention_options = true,
    axes = "axes", attentions = "attentions", kernels = "attentions", head_groups = "head-groups",
    cross = true, memory_dim = true, types = true, -- of models with several inputs
  }

  it("are all there, with the words of the engine's tables", function()
    local help = (good "train --help"):gsub("%s+", " ")
    local function check(options)
      for _, option in ipairs(options) do
        local word = elsewhere[option.name] or option.name:gsub("_", "-")
        if word ~= true then
          assert.is_truthy(help:find(" --" .. word .. " ", 1, true), word .. " has no row")
          if not elsewhere[option.name] and option.name ~= "length" and
              option.name ~= "attention" then
            local doc = option.doc:gsub("%s+", " "):gsub("%f[%w]false:", "off:")
            assert.is_truthy(help:find(doc, 1, true), doc)
          end
        end
      end
    end
    for _, layer in ipairs(pf.layers()) do
      if layer.type == "performer" then check(layer.options) end
    end
    check(pf.kernels().options)
    for _, word in ipairs { "ngrams-shortest", "ngrams-width", "buckets" } do
      assert.is_truthy(help:find(" --" .. word .. " ", 1, true), word)
    end
  end)

  it("may be lists, by commas", function()
    local data = ("--data %s --steps 1 --ngrams 0 --features 6 "):format(path "t.txt")
    local got = options_of(train("layers", data .. "--layers 3 --window 4 --qk-norm off "
      .. "--attentions exact,sliding,relu"))
    assert.are.same({ "exact", { name = "sliding", window = 4 }, "favor" }, got.attentions)
    assert.are.same({ "softmax", "softmax", "relu" },
      { got.kernels[1].name, got.kernels[2].name, got.kernels[3].name })
    assert.are.equal(6, got.kernels[3].features)
    got = options_of(train("kinds", data .. "--layers 2 --attentions exact,identity"))
    assert.are.same({ "exact", "identity" }, got.attentions)
    assert.is_nil(got.kernels)
    got = options_of(train("heads", data .. "--heads 2 --head-groups 1:exact,1:relu")).head_groups
    assert.are.same({ 1, "exact", 1, "favor", "relu", 6 }, { got[1].heads, got[1].attention,
      got[2].heads, got[2].attention, got[2].kernel.name, got[2].kernel.features })
    got = options_of(train("grid", data .. "--positions axial --axes 4,16"))
    assert.are.same({ 4, 16 }, got.axes)
    got = options_of(train("again", ("--init %s --attentions relu,exact --layers 2 --data %s "
      .. "--steps 1"):format(path "layers", path "t.txt")))
    assert.are.same({ "favor", "exact" }, got.attentions)
    for words, message in pairs {
      ["--attentions exact,softmx"] = "there is no 'softmx' %(did you mean 'softmax'%?%)",
      ["--layers 3 --attentions exact,relu"] = "%-%-attentions has 2 entries, and layers is 3",
      ["--attention exact --attentions exact"] = "give %-%-attention or %-%-attentions, not both",
      ["--attentions exact --window 4"] = "%-%-window is for %-%-attention sliding",
      ["--head-groups 2"] = "%-%-head%-groups: '2' is no list of groups, as 2:exact,6:relu",
      ["--axes 4x4"] = "%-%-axes: '4x4' is no list of sizes, as 64,64,3",
      ["--axes 4,4"] = "%-%-axes does nothing here: it is for positions = axial",
      ["--attention sliding --global 65 --length 64"] =
        "%-%-global 65 is more first tokens than a row of %-%-length 64 has",
    } do
      local code, _, err = performer(("train %s %s --out %s"):format(data, words, path "never"))
      assert.are.equal(2, code)
      assert_sentence(err, message)
    end
  end)

  it("come to the model, its kernel and its n-gram memory", function()
    local run = train("all", ("--data %s --steps 3 --kv-heads 1 --head-dim 4 --tied off --bias "
      .. "--rotary-base 500 --rows hadamard --per-head off --kernel-seed 5 "
      .. "--ngrams 3 --ngrams-shortest 2 --ngrams-width 8 --buckets 32 --qk-norm off --ratio 2 "
      .. "--attention softmax_plus --tilt -0.5")
      :format(path "t.txt"))
    local got = options_of(run)
    for name, want in pairs { kv_heads = 1, head_dim = 4, tied = false, bias = true,
                              rotary_base = 500, qk_norm = false } do
      assert.are.equal(want, got[name], name)
    end
    for name, want in pairs { rows = "hadamard", per_head = false, seed = 5, ratio = 2,
                              name = "softmax_plus", tilt = -0.5 } do
      assert.are.equal(want, got.kernel[name], name)
    end
    assert.are.same({ shortest = 2, longest = 3, width = 8, buckets = 32 }, got.ngrams)
  end)

  it("turn on and off", function()
    local on = train("on", ("--data %s --steps 3 --qk-norm --reversible on"):format(path "t.txt"))
    assert.is_true(options_of(on).qk_norm and options_of(on).reversible)
    local off = train("off", ("--data %s --steps 3 --qk-norm off --reversible off --bidirectional"
      .. " off"):format(path "t.txt"))
    assert.is_false(options_of(off).qk_norm or options_of(off).reversible)
    assert.is_true(options_of(off).causal)
  end)

  it("take a kind of attention, or a map", function()
    for _, kind in ipairs(pf.kinds()) do
      local words = ("--data %s --steps 3 --attention %s"):format(path "t.txt", kind.name)
      if kind.edges then -- a command has none to give
        local code, _, err = performer(("train %s --out %s"):format(words, path "never"))
        assert.are.equal(2, code)
        assert_sentence(err, kind.name .. " attention goes along the edges of a graph")
      else
        assert.are.equal(kind.name, options_of(train("kind_" .. kind.name, words)).attention)
      end
    end
    local run = train("map", ("--data %s --steps 3 --attention relu --norms sqrt_d"):format(
      path "t.txt"))
    assert.are.equal("relu sqrt_d", options_of(run).kernel.name .. " "
      .. options_of(run).kernel.norms)
  end)

  it("are refused in one sentence, before a folder is made", function()
    for arguments, sentence in pairs {
      ["--kv-heads 3"] = "kv_heads", ["--rows square"] = "%-%-rows must be one of orthogonal",
      ["--tilt much"] = "%-%-tilt: 'much' is not a number",
      ["--bias maybe"] = "must be one of 'on'",
      ["--layers -1"] = "%-%-layers must be a whole number from 1 to 4096, got %-1",
      ["--dim 0"] = "%-%-dim must be", ["--heads 0"] = "%-%-heads must be",
      ["--optimizer adamm"] = "did you mean 'adamw'",
    } do
      local code, out, err = performer(("train --data %s --steps 3 %s --out %s")
        :format(path "t.txt", arguments, path "never"))
      assert.are.equal(2, code, arguments .. "\n" .. err)
      assert.are.equal("", out)
      assert_sentence(err, sentence)
      assert.is_false(commands.exists(path "never"))
    end
  end)
end)

describe("settings of a run of 0.1.0", function()
  local old = { attention = "relu", dim = 16, layers = 1, heads = 2, features = 8, redraw = 4,
                scale = 0.5, hidden = 8, length = 32, batch = 4, steps = 6, lr = 0.004,
                warmup = 2, decay = 0.1, clip = 1, dropout = 0.1, positions = "rotary",
                act = "gelu", norm = "layernorm", conv = 4, ngrams = 2, buckets = 8,
                head_decay = 1, seed = 1, eval_every = 3, log_every = 1, keep = 1,
                bidirectional = false, qk_norm = "on", recompute = false, reversible = false,
                data = "p.fasta", model = "own.lua" }

  it("are read as the words that they were", function()
    local settings = train_options.saved(old)
    assert.are.same({
      dim = 16, layers = 1, heads = 2, hidden = 8, length = 32, causal = true, dropout = 0.1,
      positions = "rotary", act = "gelu", norm = "layernorm", conv = 4, decay = 1, qk_norm = true,
      recompute = false, reversible = false,
      ngrams = { shortest = 2, longest = 2, buckets = 8 },
      kernel = { name = "relu", features = 8, redraw = 4, scale = 0.5 } }, settings.model)
    assert.are.equal("own.lua", settings.script)
    assert.are.same(settings, train_options.saved(settings))
  end)

  it("come to a model's script as they did", function()
    local words = train_options.words(train_options.saved(old))
    for name, value in pairs(old) do
      if name ~= "qk_norm" then assert.are.equal(value, words[name], name) end
    end
    assert.is_true(words.qk_norm)
  end)
end)
