-- first_hour_spec.lua - what somebody types in the first hour who comes from PyTorch, Torch7,
-- nanoGPT or llama.cpp (support/first_hour): it works, or the message names the right word. And
-- words of other command lines point to options of ours.
local commands = require "spec.support.commands"
local pf = require "performer"
local support = require "spec.support"

local nn = pf.nn

-- ---- in Lua ----

--- What is at hand; each guess gets it anew.
local function world()
  local model = nn.performer { vocab = 8, dim = 4, layers = 1, heads = 1, causal = true }
  local ids = pf.tensor({ { 1, 2, 3 }, { 4, 5, 6 } }, { dtype = "i32" })
  return setmetatable({ pf = pf, torch = pf, nn = nn, x = pf.randn(2, 3), y = pf.randn(2, 3),
                        ids = ids, model = model, opt = pf.optim.adamw(model, {}),
                        loss = pf.ones(1) }, { __index = _G })
end

--- nil, or why the guess is no good.
local function judge(guess, ok, said)
  local code, pattern = guess[1], guess[2]
  if ok and pattern then return code .. ": works, and was to be told " .. pattern end
  if not ok and not (pattern and said:find(pattern)) then return code .. ": " .. said end
end

local function try_lua(guess)
  local chunk = assert(load(guess[1], "=typed", "t", world()))
  local ok, said = pcall(chunk)
  return judge(guess, ok, tostring(said))
end

-- ---- on the command line ----

local SMALL = "--dim 16 --layers 1 --heads 2 --features 16 --length 32 --batch 2 --steps 1 "
  .. "--threads 1"

local run, outs = nil, 0

local function try_command(guess)
  outs = outs + 1
  local words = guess[1]:gsub("%f[%w]%u%u%u+%f[%W]", {
    FILE = commands.path "t.txt", RUN = run, SMALL = SMALL, OUT = commands.path("out" .. outs) })
  local code, out, err = commands.performer(words)
  local bad = judge(guess, code == 0, out .. err)
  if bad or code == 0 then return bad end
  if code ~= 2 then return ("%s: exit code %d"):format(guess[1], code) end
  if err:find "traceback" then return err end
end

-- ---- all of them ----

describe("the first hour of somebody who comes from", function()
  setup(function()
    commands.start()
    run = commands.train("first", ("--data %s --steps 1 --threads 1"):format(commands.path "t.txt"))
  end)
  teardown(commands.stop)

  for name, try in pf.sorted { pytorch = try_lua, torch7 = try_lua, nanogpt = try_command,
                               llamacpp = try_command } do
    it(name .. ": 30 guesses work, or are told the right word", function()
      local guesses = require("spec.support.first_hour." .. name)
      assert.equal(30, #guesses)
      local folder, bad = support.folder(), {}
      for _, guess in ipairs(guesses) do
        if guess[1]:find "model%.t7" then -- it writes where it is
          guess = { (guess[1]:gsub("model%.t7", folder .. "/model.t7")), guess[2] }
        end
        bad[#bad + 1] = try(guess)
      end
      support.remove(folder)
      assert.same({}, bad)
    end)
  end
end)

describe("words of other command lines", function()
  local cli_words = require "kit.cli_words"

  --- The options of every command, { train = { dim = true, ... } ... }.
  local function options_of()
    local commands_of, cli = {}, require "kit.cli"
    local parse = cli.parse
    for name in require("lfs").dir "scripts" do
      local command = name:match "^(%w+)%.lua$"
      if command then
        cli.parse = function(_, rows)
          commands_of[command] = {}
          for _, row in ipairs(rows) do commands_of[command][row[1]] = true end
          error({}, 0)
        end
        rawset(_G, "arg", {})
        pcall(assert(loadfile("scripts/" .. name)))
      end
    end
    cli.parse = parse
    return commands_of
  end

  it("point to options that some command has, and stay silent where none is meant", function()
    local all = {}
    for _, options in pairs(options_of()) do
      for name in pairs(options) do all[name] = true end
    end
    assert.is_true(all.checkpoint and all.features)
    for word, meant in pf.sorted(cli_words.options) do
      local is_there = false
      for _, name in ipairs(meant) do is_there = is_there or all[name] end
      assert.is_true(is_there or cli_words.notes[word] ~= nil, word)
      for told in (meant.say or ""):gmatch "%-%-([%l-]+)" do assert.is_true(all[told], told) end
    end
    for word, note in pf.sorted(cli_words.notes) do
      for told in note:gmatch "%-%-([%l-]+)" do
        assert.is_true(told == "version" or all[told], word .. ": " .. told)
      end
    end
    for _, meant in pairs(cli_words.values) do -- words for attention, as any
      assert.is_true(meant.say == nil or meant.say:find(meant[1], 1, true) ~= nil)
    end
    assert.matches("^; it is 'favor' ", cli_words.value_hint("Linear-Attention", { "favor" }))
    assert.equal("", cli_words.value_hint("linear", { "sgd", "adamw" }))
    for _, word in ipairs { "--banana", "--zip", "-q", "--shape", "--unrelated-thing" } do
      assert.equal("", cli_words.hint(word, { "steps", "scale", "heads", "seed" }))
    end
    assert.equal(" (did you mean '--steps'?)", cli_words.hint("--stesp", { "steps" }))
    assert.equal(" (did you mean '--eval-every'?)",
      cli_words.hint("--Eval_every", { "eval-every" }))
  end)
end)
