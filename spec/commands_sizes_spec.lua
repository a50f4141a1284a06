-- commands_sizes_spec.lua - sizes that are too much, on the command line: a message names the
-- option as it was typed, the value and the range, before anything is made; and where memory does
-- not suffice, what there is to lower that helps.
local commands = require "spec.support.commands"

local assert_sentence, exists, path = commands.assert_sentence, commands.exists, commands.path
local performer = commands.performer

describe("a size that can't be", function()
  local run

  setup(function()
    commands.start()
    run = commands.train("run", ("--data %s --steps 1 --threads 1"):format(path "t.txt"))
  end)
  teardown(commands.stop)

  --- Fails unless the command ends with 2 and this sentence.
  local function refused(pattern, words)
    local code, _, err = performer(words)
    assert.equal(2, code, words)
    assert_sentence(err, "^performer: " .. pattern)
  end

  it("is told by its option, and before a folder is made", function()
    for words, pattern in pairs {
      ["--threads 10000"] = "%-%-threads must be a whole number from 1 to %d+, got 10000$",
      ["--threads 1e12"] = "%-%-threads must be a whole number from 1 to %d+, got 1000000000000$",
      ["--memory foo"] = "%-%-memory: 'foo' is no amount of memory, .* from 1 on, .* up to %d+T",
      ["--memory 0"] = "%-%-memory: '0' is no amount of memory",
      ["--memory 5000000T"] = "%-%-memory: '5000000T' is no amount of memory",
      ["--length 1"] = "%-%-length must be a whole number from 2 to %d+, got 1$",
      ["--seed 1e17"] = "%-%-seed must be a whole number from 0 to %d+, got 1e17",
      ["--kernel-seed -3"] = "%-%-kernel%-seed must be a whole number from 0 to %d+, got %-3; ",
      ["--decay 1e9"] = "%-%-decay must be a number from 0 to 1000, got 1000000000; ",
      ["--head-decay 1e9"] = "%-%-head%-decay must be a number from 0 to 8, got 1000000000; ",
      ["--adapters 1e8"] = "%-%-adapters must be a whole number from 1 to %d+, got 100000000$",
      ["--head-groups 9:favor"] = "%-%-head%-groups have 9 heads together, must be 4, as %-%-heads",
      ["--batch 1e9"] = "%-%-batch must be a whole number from 1 to %d+, got 1000000000$",
      ["--valid ''"] = "%-%-valid: '' is empty; leave it out, or say which",
      ["--model ''"] = "%-%-model: '' is empty",
    } do
      refused(pattern, ("train %s --steps 1 --out %s %s"):format(path "t.txt", path "never", words))
      assert.is_false(exists(path "never"), words)
    end
    refused("%-%-out: '' is empty", ("train %s --steps 1 --out ''"):format(path "t.txt"))
    refused("FILE: '' is empty", "train ''")
    refused("%-%-resume: '' is empty", "train --resume ''")
  end)

  it("is told so by the other commands", function()
    local words = ("%s %s"):format(run, path "t.txt")
    for _, command in ipairs { "eval", "score", "embed" } do
      refused("%-%-memory: 'foo' is no amount", ("%s %s --memory foo"):format(command, words))
      refused("%-%-threads must be .* to %d+, got 9999$",
        ("%s %s --threads 9999"):format(command, words))
    end
    refused("%-%-threads must be", ("generate %s --threads 9999"):format(run))
    refused("%-%-threads must be", ("report %s --threads 9999"):format(run))
    refused("%-%-threads must be", "bench gemm --threads 9999")
    refused("%-%-length must be a whole number from 2 to %d+, got 1$",
      ("eval %s --length 1"):format(words))
    refused("%-%-memory: 'x' is no amount", ("shard %s --out %s --memory x"):format(path "t.txt",
      path "never"))
    refused("%-%-out: '' is empty", ("shard %s --out ''"):format(path "t.txt"))
    refused("RUN: '' is empty", "eval ''")
    refused("RUN: '' is empty", "report ''")
    refused("RUNS: '' is empty", "compare ''")
    refused("PATH: '' is empty", "inspect ''")
    refused("generate: %-%-stop: '' is empty", ("generate %s --stop ''"):format(run))
    local most = ("generate %s The --tokens 9 --seed 3 --top-k %%s"):format(run)
    assert.equal((commands.good(most:format "0")), (commands.good(most:format "1e12")))
  end)
end)

describe("where memory does not suffice", function()
  local run

  setup(function()
    commands.start()
    run = commands.train("run", ("--data %s --steps 1 --threads 1 --dim 64"):format(path "t.txt"))
  end)
  teardown(commands.stop)

  --- What is advised behind the engine's message: it ends the command with 1.
  local function advised(words)
    local code, _, err = performer(words)
    assert.equal(1, code, words .. "\n" .. err)
    assert_sentence(err, "out of memory")
    return err:match "out of memory: asked[^;]*; ([^\n]*)\n$"
  end

  local function train(words)
    return advised(("train %s --steps 2 --threads 1 --out %s --heads 2 --features 16 %s"):format(
      path "t.txt", path(("run%d"):format(math.random(1 << 30))), words))
  end

  it("a model that is too large by itself is to be made smaller", function()
    -- while it is made, while its optimizer is, in the first step
    for _, size in ipairs { "--dim 1024 --layers 4", "--dim 256 --layers 3", "--dim 256" } do
      local told = train(size .. " --memory 24M --batch 1 --length 16")
      assert.matches("^raise %-%-memory, or lower %-%-dim or %-%-layers: it is the model", told)
      assert.is_nil(told:find "%-%-batch")
    end
    assert.matches("lower %-%-buckets, %-%-dim or %-%-layers: it is the model",
      train "--dim 16 --layers 1 --ngrams 4 --buckets 1000000 --memory 24M")
  end)

  it("a step that is too large is to be made smaller", function()
    local told = train "--dim 16 --layers 1 --batch 256 --length 256 --memory 6M"
    assert.matches("^raise %-%-memory, or lower %-%-batch or %-%-length; %-%-recompute saves", told)
    told = train "--dim 16 --layers 1 --batch 1 --length 12000 --memory 6M --recompute"
    assert.matches("^raise %-%-memory, or lower %-%-length; no checkpoint", told)
  end)

  it("nothing is advised that can't be changed", function()
    assert.equal("raise --memory",
      advised(("train --resume %s --steps 4 --memory 400K"):format(run)))
    assert.equal("raise --memory", advised(("eval %s %s --memory 300K"):format(run, path "t.txt")))
  end)

  it("data are to be fewer, and that is said once", function()
    local told = advised(("train %s --memory 10K --out %s"):format(path "t.txt", path "never"))
    assert.equal("raise --memory, or give less data, or make shards of it (performer shard)", told)
    assert.equal("raise --memory, or lower --block",
      advised(("shard %s --memory 10K --out %s"):format(path "t.txt", path "never")))
  end)
end)
