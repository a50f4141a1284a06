-- commands_options_spec.lua - options of train that would do nothing, or contradict each other, and
-- how the engine's complaints read on a command line.
local commands = require "spec.support.commands"
local pf = require "performer"
local support = require "spec.support"

local assert_sentence, exists, good, path, performer = commands.assert_sentence, commands.exists,
  commands.good, commands.path, commands.performer

-- What is told to do nothing: arguments of one run, and what is said of each option.
local TOLD = {
  { "--attention exact --features 64 --redraw 5 --positions learned --rotary-base 500 "
    .. "--ngrams-width 8 --buckets 64",
    features = "is for attention by a feature map", redraw = "is for attention by a feature map",
    ["rotary-base"] = "is for --positions rotary", ["ngrams-width"] = "is for an n-gram memory",
    buckets = "is for an n-gram memory" },
  { "--attention relu --features 0 --redraw 5 --rows iid --kernel-seed 3 --bidirectional "
    .. "--head-decay 1 --ngrams 0 --ngrams-shortest 2",
    redraw = "is for features that are projected", rows = "is for features that are projected",
    ["kernel-seed"] = "is for features that are projected",
    ["head-decay"] = "is for causal models", ["ngrams-shortest"] = "is for an n-gram memory" },
}

-- What is refused: arguments, and what the sentence says.
local REFUSED = {
  { "--rows given", "given in a script" },
  { "--optimizer sgd --beta1 0.5", "%-%-beta1 is for %-%-optimizer adamw or .*; sgd has no" },
  { "--momentum 0.5", "%-%-momentum is for %-%-optimizer sgd or muon; adamw has no" },
  { "--kernel-seed 1e20", "%-%-kernel%-seed: 1e20 is too large" },
  { "--model '/tmp/a\xff'", "%-%-model .* is no UTF%-8 text, which a run's records are: rename" },
  { "--valid '/tmp/a\xff' t.txt", "%-%-valid .* is no UTF%-8 text" },
  { "--lr 0", "%-%-lr must be more than 0" },
  { "--eps -0.5", "%-%-eps must be" },
  { "--attention-scale 0.5", "performer: train: %-%-attention%-scale is for %-%-attention exact" },
  { "--local-heads 1 --window 8",
    "%-%-window is for %-%-attention .*; of %-%-local%-heads it is %-%-local%-window" },
  { "--attention sliding --window -3", "%-%-window must be a whole number from 1 to .*, got %-3" },
  { "--attention exact --carry 8", "^performer: carry: rows of this model can't go on from rows" },
  -- The engine's own complaints, in the words that were typed.
  { "--head-decay -1", "%-%-head%-decay must be a number from 0 to 8, got %-1; .*%-%-help" },
  { "--attention softmax_plus --tilt 9",
    "performer: %-%-tilt must be a number from .*, got 9; .*%-%-help" },
  { "--ngrams 2 --ngrams-shortest 5", "%-%-ngrams is 2, must be at least %-%-ngrams%-shortest, 5" },
  { "--beta1 3", "%-%-beta1 must be a number from 0 to .*, got 3; .*%-%-help" },
  { "--norms x", "%-%-norms must be one of chi, sqrt_d, got 'x'; .*%-%-help" },
}

-- What has an effect, or is off.
local TAKEN = {
  "--attention relu --features 8 --redraw 2", "--attention auto --features 8 --length 32",
  "--attention relu --features 0 --redraw 0 --seed 1 --seed 1",
  "--bidirectional --head-decay 0 --attention relu --preset pytorch --rows iid",
  "--ngrams 2 --ngrams-width 8 --buckets 64 --positions rotary --rotary-base 500",
}

describe("an option of train", function()
  setup(commands.start)
  teardown(commands.stop)

  local function command(arguments, out)
    return ("train --data %s --dim 16 --heads 2 --layers 1 --length 32 --batch 2 --steps 1 "
      .. "%s --out %s"):format(path "t.txt", arguments, path(out))
  end

  it("that contradicts another, or fits nothing, is refused", function()
    for _, case in ipairs(REFUSED) do
      local code, out, err = performer(command(case[1], "never"))
      assert.equal(2, code, case[1] .. "\n" .. err)
      assert.equal("", out)
      assert_sentence(err, case[2])
      assert.is_false(exists(path "never"))
    end
  end)

  it("that does nothing is told, and no other", function()
    for i, case in ipairs(TOLD) do
      local _, err = good(command(case[1], "told" .. i))
      for name, why in pairs(case) do
        if name ~= 1 then
          local sentence = ("\ntrain: --%s does nothing here: it %s"):format(name, why)
          assert.is_truthy(("\n" .. err):find(sentence, 1, true), sentence .. " is not in " .. err)
        end
      end
    end
    for i, arguments in ipairs(TAKEN) do
      local _, err = good(command(arguments, "taken" .. i))
      assert.is_nil(err:find("does nothing", 1, true) or err:find("twice", 1, true), err)
    end
    local _, err = good(command("--seed 3 --seed 4", "twice"))
    assert.is_truthy(err:find("--seed is given twice, as 3 and as 4: the last one counts", 1, true))
  end)

  it("that a model's script does not read is told, and no other", function()
    local text = [[
      local pf = require "performer"
      return function(o)
        %s
        return pf.nn.chain { pf.nn.embedding { vocab = o.vocab, dim = o.dim },
                             pf.nn.linear { from = o.dim, to = o.vocab } }
      end]]
    local script = support.write(path "reads.lua", text:format ""):gsub("%%", "%%%%")
    local more = ("--features 8 --attention relu --model %s"):format(script)
    local _, err = good(command(more, "unread"))
    for _, name in ipairs { "features", "attention", "heads", "layers" } do
      local sentence = ("train: --%s does nothing here: %s does not read it\n"):format(name, script)
      assert.is_truthy(err:find(sentence, 1, true), err)
    end
    assert.is_nil(err:find("--dim does nothing", 1, true))
    support.write(path "reads.lua", text:format "for _ in pairs(o) do end")
    assert.is_nil(select(2, good(command(more, "walked"))):find("does nothing", 1, true))
  end)

  it("says what it needs in its row", function()
    local known = { rotary = 1, causal = 1, projection = 1, cross = 1, local_heads = 1,
                    training = 1 }
    local lists, n = { pf.kernels().options }, 0
    for _, layer in ipairs(pf.layers()) do lists[#lists + 1] = layer.options end
    for _, kind in ipairs(pf.kinds()) do lists[#lists + 1] = kind.options end
    for _, list in ipairs(lists) do
      for _, option in ipairs(list) do
        if option.needs then
          n = n + 1
          assert.is_truthy(known[option.needs], option.name)
        end
      end
    end
    assert.is_true(n >= 6)
  end)
end)
