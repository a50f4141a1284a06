-- sandbox_spec.lua - strangers' scripts in the sandbox, and the command `run`: every attack ends as
-- it has to, within its deadline and its bytes, and the host's things are as before; functions that
-- pay for what they do give what Lua's own give. The attacks stand in support/sandbox_attacks.lua.
-- [scripts.4] of engine/LIVING_IN_A_HOST.md.
local attacks = require "spec.support.sandbox_attacks"
local core = require "performer.core"
local pf = require "performer"
local support = require "spec.support"

local LONG = os.getenv "PF_LONG" ~= nil
local PROGRAMS, CALLS = LONG and 100000 or 150, LONG and 300000 or 3000

--- Runs the driver; exit code, what it wrote, and stderr.
local function drive(words)
  return support.shell(("%s/bin/performer spec/support/sandbox_driver.lua spec/support %s"):format(
    support.build, words))
end

--- Runs `performer run` on a script with this text.
local function run(options, text, words)
  local path = os.tmpname() .. ".lua"
  support.write(path, text)
  local code, out, err = support.shell(("%s/bin/performer run %s %s %s"):format(support.build,
    options, path, words or ""))
  os.remove(path)
  return code, out, err
end

describe("the sandbox", function()
  local told, last = {}, nil

  setup(function()
    local _, out, err = drive "table"
    for line in out:gmatch "[^\n]+" do
      local name = line:match "^ok (.*)"
      local bad, why = line:match "^not ok (.-): (.*)"
      if name then told[name] = "ok" end
      if bad then told[bad] = why end
      last = line
    end
    last = last .. err
  end)

  it("has a hundred attacks and more, each with a name of its own", function()
    local seen = {}
    for _, row in ipairs(attacks) do
      assert.is_nil(seen[row[1]], row[1])
      seen[row[1]] = true
    end
    assert.is_true(#attacks >= 100)
  end)

  for _, row in ipairs(attacks) do
    it("holds " .. row[1], function()
      assert.are.equal("ok", told[row[1]] or ("it never came back; the last line: " .. last))
    end)
  end

  it("holds programs that nobody wrote", function()
    local code, out, err = drive(("grammar %d 20261130"):format(PROGRAMS))
    assert.are.equal(0, code, err)
    assert.is_truthy(out:find "\n0 failed\n$", out:match "not ok[^\n]*" or err)
    local _, ok = out:gsub("\nok ", "")
    assert.are.equal(PROGRAMS, ok)
  end)

  it("counts the same work whatever the threads", function()
    local text = [[local pf = require "performer"
      local a = pf.randn(64, 64)
      for _ = 1, 20 do a = a:matmul(a):softmax(2) end
      while true do end]]
    local _, _, one = run("--sandbox --work 300000 --threads 1", text)
    local _, _, two = run("--sandbox --work 300000 --threads 2", text)
    assert.is_truthy(one:find "over the limit of 300000 units of work", one)
    -- Lua walks its tables in another order in each process: some instructions more or less.
    local function units(line) return tonumber(line:match "(%d+) units of work, with") end
    assert.is_true(math.abs(units(one) - units(two)) < 300)
  end)
end)

describe("files in the sandbox", function()
  local SECRET = "whatnobodymaysee"
  local folder

  --- A folder with a file of every kind that the library reads, all of which tell the secret.
  before_each(function()
    folder = support.folder()
    local model = pf.nn.linear { from = 2, to = 2 }
    support.write(folder .. "/text.txt", (SECRET .. "\n"):rep(40))
    support.write(folder .. "/config.json", ('{ "%s": 1 }'):format(SECRET))
    assert(pf.save(folder .. "/weights.safetensors", { [SECRET] = pf.ones(2) }))
    assert(pf.checkpoint.save(folder .. "/run", { model = model, state = { [SECRET] = SECRET } }))
  end)
  after_each(function() support.remove(folder) end)

  local function listing()
    local _, out = support.shell(("cd %s && find . -type f | sort | xargs cksum"):format(folder))
    return out
  end

  --- Calls all that there is with paths of the folder; what came back.
  local function walk(options)
    local words = {}
    for _, class in ipairs { "tensor", "module", "kernel", "optimizer", "stream", "state" } do
      for name in pf.sorted(core.methods("performer." .. class)) do
        words[#words + 1] = class .. "." .. name
      end
    end
    local code, out, err = support.shell(("here=$PWD; cd %s && "
      .. "%s/bin/performer run --seconds 60 --memory 512M %s "
      .. "$here/spec/support/sandbox_walk.lua %s %s"):format(folder, support.build, options, folder,
      table.concat(words, " ")))
    assert.are.equal(0, code, err)
    return out
  end

  it("are not there, whatever is called", function()
    local before = listing()
    local out = walk "--sandbox"
    assert.is_nil(out:find(SECRET, 1, true))
    assert.are.equal(before, listing())
    assert.is_true(tonumber(out:match "calls%s+(%d+)") > 5000)
  end)

  it("would be seen by the same calls outside", function()
    local before = listing()
    assert.is_truthy(walk "":find(SECRET, 1, true))
    assert.are_not.equal(before, listing())
  end)
end)

describe("functions that pay for what they do", function()
  it("give what Lua's own give", function()
    local code, out, err = drive(("same %d 7"):format(CALLS))
    assert.are.equal(0, code, err)
    assert.is_truthy(out:find "\n0 failed\n$", out)
    assert.is_true(tonumber(out:match "(%d+) results") > 5 * CALLS)
  end)
end)

describe("performer run", function()
  it("runs a script with its arguments, and without limits", function()
    local code, out = run("", "print(#arg, arg[1], (...), arg[0] ~= nil, io ~= nil)", "one --two")
    assert.are.equal(0, code)
    assert.are.equal("2\tone\tone\ttrue\ttrue\n", out)
  end)

  it("says which of its own options stand behind the script, and are the script's", function()
    local code, out, err = run("--sandbox", "print(...)", "--seconds 1 --work=2 -x --own --json")
    assert.are.equal(0, code)
    assert.are.equal("--seconds\t1\t--work=2\t-x\t--own\t--json\n", out)
    assert.is_truthy(err:find "^run: %-%-seconds, %-%-work, %-%-json behind %S+%.lua: [^\n]+\n$",
      err)
    assert.are.equal("", select(3, run("--seconds 9", "print(...)", "--own -seconds seconds")))
  end)

  it("refuses limits that bound nothing", function()
    for _, option in ipairs { "--seconds 0", "--work 0", "--memory 0", "--seconds -1" } do
      local code, out, err = run(option, "print 'ran'")
      assert.are.equal(2, code, option)
      assert.are.equal("", out)
      assert.is_truthy(err:find(option:match "%-%-%a+", 1, true), err)
    end
  end)

  it("ends with 3 and one sentence that names the limit", function()
    for options, sentence in pairs {
      ["--seconds 0.05"] = "over the limit of 0%.05 s ",
      ["--work 100000"] = "over the limit of 100000 units of work",
      ["--sandbox --seconds 0.05"] = "over the limit of 0%.05 s ",
    } do
      local code, out, err = run(options, "while true do pcall(string.rep, 'x', 10) end")
      assert.are.equal(3, code, err)
      assert.are.equal("", out)
      assert.is_truthy(err:find(sentence), err)
      local _, lines = err:gsub("\n", "")
      assert.are.equal(1, lines, err)
    end
    local code, _, err = run("--memory 16M", "local t = {} while true do t[#t + 1] = {} end")
    assert.are.equal(3, code)
    assert.is_truthy(err:find "out of memory", err)
  end)

  it("takes tensors and Lua together for the memory", function()
    local text = [[local pf = require "performer"
      local a = pf.zeros(%d << 18)
      local t = {} for i = 1, %d do t[i] = ("x"):rep(1 << 20) .. i end]]
    assert.are.equal(0, (run("--memory 32M", text:format(10, 10))))
    assert.are.equal(3, (run("--memory 32M", text:format(20, 20))))
    assert.are.equal(3, (run("--memory 32M", text:format(40, 0))))
    assert.are.equal(3, (run("--memory 32M", text:format(0, 40))))
  end)

  it("ends with the script's own code, with 1 for an error and 2 for misuse", function()
    local code, _, err = run("", "require 'performer'.exit(7, 'as it likes')")
    assert.are.equal(7, code)
    assert.is_truthy(err:find "as it likes")
    code, _, err = run("--sandbox", "local x = 1\nerror 'broken'")
    assert.are.equal(1, code)
    assert.is_truthy(err:find ":2: broken" and err:find "stack traceback", err)
    code, _, err = run("", "local = 2")
    assert.are.equal(2, code)
    assert.is_truthy(err:find ":1:", err)
    assert.are.equal(2, (support.shell(support.build .. "/bin/performer run /no/such.lua")))
    assert.are.equal(2, (support.shell(support.build .. "/bin/performer run")))
    code, _, err = run("--memory 3x", "")
    assert.are.equal(2, code)
    assert.is_truthy(err:find "256M", err)
  end)

  it("tells programs how it ended, and keeps what the script prints apart", function()
    local function record(options, text, code)
      local got, out, err = run(options .. " --json", text)
      assert.are.equal(code, got, err)
      local _, lines = out:gsub("\n", "")
      assert.are.equal(1, lines, out)
      return assert(pf.json.decode(out)), err
    end
    for _, options in ipairs { "", "--sandbox" } do
      local done, err = record(options, "print 'a line'", 0)
      assert.is_truthy(done.ended == "done" and done.code == 0 and done.bytes_peak > 0)
      assert.is_truthy(err:find("a line", 1, true))
      local over = record(options .. " --work 100000", "print 'x'\nwhile true do end", 3)
      assert.are.same({ "limit", "PF_ELIMIT", 3 }, { over.ended, over.status, over.code })
      assert.is_truthy(over.message:find ":2: over the limit of 100000 units of work",
        over.message)
      local failed = record(options, "error 'broken'", 1)
      assert.are.same({ "failed", 1 }, { failed.ended, failed.code })
      assert.is_truthy(failed.message:find ":1: broken")
    end
  end)

  it("bounds a stranger's script where nothing was said", function()
    local code, _, err = run("--sandbox", "require 'performer'.zeros(1 << 27)")
    assert.are.equal(3, code, err)
    assert.are.equal(0, (run("--sandbox --memory 1G --seconds 60",
      "require 'performer'.zeros(1 << 27)")))
  end)

  it("is stopped by a signal, whatever the script catches", function()
    local path = os.tmpname() .. ".lua"
    support.write(path, "while true do pcall(string.rep, 'x', 10) end")
    for _, options in ipairs { "", "--sandbox" } do
      local code, _, err = support.shell(([[
        %s/bin/performer run --seconds 60 %s %s &
        sleep 0.3
        while kill -INT $! 2>/dev/null; do sleep 1; done
        wait $!]]):format(support.build, options, path))
      assert.are.equal(130, code, err)
    end
    os.remove(path)
  end)
end)
