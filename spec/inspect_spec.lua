-- inspect_spec.lua - what a person reads of a checkpoint before its tensors: the model in a
-- sentence, parameters by part, how far training has come, data, and bytes on disk by file.
local commands = require "spec.support.commands"
local describe_model = require "kit.describe"
local lfs = require "lfs"
local pf = require "performer"
local support = require "spec.support"

local good, path, train = commands.good, commands.path, commands.train

local function grouped(n)
  return (("%d"):format(n):reverse():gsub("(%d%d%d)", "%1,"):reverse():gsub("^,", ""))
end

describe("inspect", function()
  local run, out

  setup(function()
    commands.start()
    run = train("run", ("--data %s --steps 6 --eval-every 3 --ngrams 4 --buckets 64 --threads 1")
      :format(path "p.fasta"))
    out = good("inspect " .. run)
  end)
  teardown(commands.stop)

  it("says what the model is", function()
    local info = assert(pf.inspect(run))
    assert.matches("model +A causal language model of 1 block, 16 wide, with 2 heads, "
      .. grouped(info.params) .. " parameters; softmax attention by features %(FAVOR%+, 16%); an "
      .. "n%-gram memory of lengths 3 to 4; a convolution of 4\n", out)
    assert.equal("A model of type chain, 12 parameters",
      describe_model.model({ type = "chain" }, 12))
  end)

  it("counts every parameter in one part, the n-gram memory apart", function()
    local info, sum, memory = assert(pf.inspect(run)), 0, nil
    for name, count in out:gmatch "\n  (%l[%l%-][%l %-]-) +([%d,]+) +[%d.]+ %%" do
      local n = math.tointeger((count:gsub(",", "")))
      sum = sum + n
      if name == "n-gram memory" then memory = n end
    end
    assert.equal(info.params, sum)
    local model = assert(pf.checkpoint.model(run))
    local told = 0
    for name, tensor in pairs(model:tensors()) do
      if name:find "^ngrams%." then told = told + tensor:numel() end
    end
    assert.equal(told, memory)
    assert.is_truthy(out:find("reads a few rows: " .. grouped(info.params - memory), 1, true))
    local _, all = model:count()
    assert.is_truthy(out:find("drawn or fixed beside them: " .. grouped(all - info.params) .. "\n",
      1, true))
  end)

  it("says how far training has come, on what, and what lies on disk", function()
    local log = commands.log_of(run)
    assert.matches("\ntrained +step 6 of 6, [%d.]+ seconds, finished\n", out)
    assert.is_truthy(out:find(("best held-out loss in passing %.4f, step %d"):format(
      log[#log].best_loss, log[#log].best_step), 1, true))
    assert.matches("\ndata +" .. path "p.fasta":gsub("%p", "%%%0") .. ", [%d,]+ training tokens, "
      .. grouped(log[1].data.valid_tokens) .. " held out\n", out)
    assert.matches("\ntokenizer +protein\n", out)
    local checkpoint = run .. "/" .. support.read(run .. "/LATEST"):match "%S+"
    local files = 0
    for name in lfs.dir(checkpoint) do
      if lfs.attributes(checkpoint .. "/" .. name, "mode") == "file" then
        files = files + 1
        assert.is_truthy(out:find("\n  " .. name, 1, true), name)
      end
    end
    assert.is_true(files >= 5)
    assert.matches("\n  the whole folder +[%d.]+ [KM]iB\n", out)
    assert.is_nil(out:find("{", 1, true)) -- the configuration as JSON is --json's
  end)

  it("lists the tensors behind that, and of a file by itself its parts", function()
    assert.matches("\n\nembedding.weight +F32 ", out)
    local file = good(("inspect %s/step-6/model.safetensors"):format(run))
    assert.matches("parameters +[%d,]+\n", file)
    assert.matches("embedding +[%d,]+ ", file)
    assert.is_nil(file:find("trained ", 1, true))
  end)
end)
