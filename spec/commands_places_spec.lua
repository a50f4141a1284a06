-- commands_places_spec.lua - what the commands take without options' names: train FILE, eval RUN
-- FILE, generate RUN PROMPT. The same comes of it as with the names.
local commands = require "spec.support.commands"
local pf = require "performer"

local good, path, performer = commands.good, commands.path, commands.performer

describe("words without an option's name", function()
  local run

  setup(function()
    commands.start()
    run = commands.train("book", ("--data %s --steps 1 --threads 1"):format(path "t.txt"))
  end)
  teardown(commands.stop)

  --- What a command says, without what differs from call to call.
  local function says(arguments)
    local record = pf.json.decode((good(arguments .. " --json --threads 1"):match "^[^\n]*"))
    record.tokens_per_s, record.seconds, record.out = nil, nil, nil
    return record
  end

  it("are what they are with it", function()
    local file = path "t.txt"
    for named, short in pf.sorted {
      ["eval --checkpoint RUN --data FILE"] = "eval RUN FILE",
      ["eval --checkpoint RUN --data FILE --batch 2"] = "eval --batch 2 RUN FILE",
      ["generate --checkpoint RUN --prompt 'a b' --tokens 5 --seed 2"] =
        "generate RUN 'a b' --tokens 5 --seed 2",
      ["generate --checkpoint RUN --tokens 5 --seed 2"] = "generate RUN --tokens 5 --seed 2",
      ["embed --checkpoint RUN --data FILE"] = "embed RUN FILE",
      ["score --checkpoint RUN --data FILE"] = "score RUN FILE",
    } do
      local places = { RUN = run, FILE = file }
      assert.same(says((named:gsub("%u%u%u+", places))), says((short:gsub("%u%u%u+", places))))
    end
    local short = "convert " .. run .. " " .. path "other" .. " --attention relu --json"
    assert.equal("relu", pf.json.decode(good(short)).to)
    assert.equal("performer", pf.inspect(path "other").config.type)
  end)

  it("of train are its data, several files too, also behind a switch", function()
    local more = " --dim 16 --layers 1 --heads 2 --features 8 --length 32 --batch 2 --steps 1"
    for name, words in pf.sorted { one = "%s", two = "%s %s", switch = "--bidirectional %s" } do
      local file, out = path "t.txt", path(name)
      good(("train %s %s --out %s"):format(words:format(file, file), more, out))
      local settings = pf.inspect(out).state.state.settings
      assert.same(name == "two" and { file, file } or file, settings.data)
      assert.equal(name == "switch", settings.bidirectional)
    end
  end)

  it("of shard are its data and, without --out, the folder", function()
    local file = path "t.txt"
    require("spec.support").write(path "p2.txt", ("and more of it\n"):rep(50))
    for name, words in pairs { last = "%s %s %s", named = "%s %s --out %s" } do
      good(("shard " .. words):format(file, path "p2.txt", path(name)))
      assert.is_true(commands.exists(path(name) .. "/manifest.json"))
    end
    local code, _, err = performer(("shard %s %s"):format(file, path "p2.txt"))
    assert.equal(2, code)
    assert.matches("p2.txt is a file: the folder to make is the last word, or %-%-out says it", err)
    assert.equal(2, (performer("shard " .. file)))
    assert.matches("^Usage: performer shard <file> %.%.%. <folder> %[options%]\n",
      (good "shard --help"))
  end)

  it("begin with a dash behind --", function()
    local record = says("generate " .. run .. " --tokens 2 --seed 3 --prompt -x")
    assert.equal("-x", record.text:sub(1, 2))
    local code, out = performer(("generate %s --tokens 2 --seed 3 -- -x"):format(run))
    assert.equal(0, code)
    assert.equal("-x", out:sub(1, 2))
  end)

  it("stand in the help, before the options", function()
    assert.matches("^Usage: performer eval <run> <file> %.%.%. %[options%]\n", (good "eval --help"))
    assert.matches("\nArguments:\n   run +the same as %-%-checkpoint\n", (good "eval --help"))
    assert.matches("^Usage: performer generate <run> <prompt> %[options%]\n",
      (good "generate --help"))
  end)

  it("are told where they are too many, or said twice", function()
    local code, _, err = performer(("eval %s %s --checkpoint %s"):format(run, path "t.txt", run))
    assert.equal(2, code)
    assert.matches("book' stands where %-%-checkpoint is meant", err)
    code, _, err = performer(("convert %s a b"):format(run))
    assert.equal(2, code)
    assert.matches("a place for RUN and FOLDER", err)
    assert.is_nil(io.open "a")
  end)
end)
