-- hosts_spec.lua - the programs of examples/hosts/ do what they say, with what a user gives them:
-- nothing, damaged files, a signal in the middle.
local support = require "spec.support"

local QUIET = "OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive "
local build = support.build

describe("hosts", function()
  local folder, model

  --- Runs a host in the folder; what it ended with, printed and complained of.
  local function host(words)
    return support.shell(("cd '%s' && %s'%s/examples/'%s"):format(folder, QUIET, build, words))
  end

  local function write(name, bytes) support.write(folder .. "/" .. name, bytes) end

  local function read(name) return support.read(folder .. "/" .. name) end

  setup(function()
    folder = support.folder()
    local lines = {}
    for i = 1, 900 do lines[i] = ("line %d of a book that repeats itself\n"):format(i) end
    write("book.txt", table.concat(lines))
    local code, out, err = host "train book.txt run 60"
    assert.equal(0, code, err)
    assert.truthy(out:find("^from step 0\nstep 60  loss %d"), out)
    model = "run"
  end)

  teardown(function() support.remove(folder) end)

  it("train goes on where it was, and ends at a signal with all it had", function()
    local code, out = host "train book.txt run 60"
    assert.equal(0, code)
    assert.equal("from step 60\n", out)
    code, out = support.shell(("cd '%s' && { %s'%s/examples/train' book.txt stopped 1000000 & }; "
      .. "p=$!; sleep 1; kill -INT $p; wait $p"):format(folder, QUIET, build))
    assert.equal(0, code)
    local step = tonumber(out:match "stopped after step (%d+)")
    code, out = host(("train book.txt stopped %d"):format(step))
    assert.equal(0, code)
    assert.equal(("from step %d\n"):format(step), out)
  end)

  local function round_trip(bytes)
    write("in", bytes)
    local code, _, err = host(("compress %s < in > packed"):format(model))
    assert.equal(0, code, err)
    code, _, err = host(("compress -d %s < packed > out"):format(model))
    assert.equal(0, code, err)
    assert.is_true(read "out" == bytes, "other bytes came back")
    return #read "packed"
  end

  it("compress gives every byte back, and known text short", function()
    local all = {}
    for byte = 0, 255 do all[#all + 1] = string.char(byte) end
    round_trip ""
    round_trip "x"
    round_trip(table.concat(all):rep(5))
    local noise = {}
    math.randomseed(1)
    for i = 1, 20000 do noise[i] = string.char(math.random(0, 255)) end
    assert.equal(20036, round_trip(table.concat(noise))) -- what no model knows stays as it is
    local text = read("book.txt"):sub(-20000)
    assert.is_true(round_trip(text) < #text / 3)
  end)

  it("compress knows a file that is damaged, cut, not its own or another model's", function()
    write("in", read("book.txt"):sub(1, 9000))
    assert.equal(0, (host(("compress %s < in > packed"):format(model))))
    local packed = read "packed"
    local function refused(bytes, with)
      write("bad", bytes)
      local code, out, err = host(("compress -d %s < bad"):format(model))
      assert.equal(1, code)
      assert.equal("", out)
      assert.truthy(err:find("PF_EFORMAT: " .. with), err)
    end
    refused("", "this is no file")
    refused("plain text that is long enough to hold a head of numbers", "this is no file")
    refused(packed:sub(1, 200), "the file is cut short")
    local function turned(place)
      local byte = string.char(packed:byte(place) ~ 16)
      return packed:sub(1, place - 1) .. byte .. packed:sub(place + 1)
    end
    refused(turned(6), "the file was made with other weights")
    refused(turned(15), "the file is damaged")
    refused(turned(26), "the file is damaged")
    refused(turned(#packed - 300), "the file is damaged")
    local code = host "compress -d stopped < packed"
    assert.equal(1, code)
    assert.equal(2, (host "compress"))
    assert.equal(1, (host "compress nothing < in"))
  end)

  it("endings are as many as asked for, the same each time", function()
    local _, there = support.shell(("ls '%s/examples'"):format(build))
    if not there:find "endings" then return end -- no C++ compiler
    local code, out, err = host "endings run 'line 3' 4"
    assert.equal(0, code, err)
    local _, lines = out:gsub("\n", "")
    assert.equal(4, lines)
    for line in out:gmatch "[^\n]+" do assert.equal("line 3", line:sub(1, 6)) end
    local _, again = host "endings run 'line 3' 4"
    assert.equal(out, again)
    code, _, err = host "endings nothing x"
    assert.equal(1, code)
    assert.truthy(err:find("^endings: PF_ENOTFOUND: "), err)
    assert.equal(2, (host "endings run x 99"))
  end)

  it("chooser prints what the script thinks best, and its failures with file and line", function()
    local _, there = support.shell(("ls '%s/examples'"):format(build))
    if not there:find "chooser" then return end -- no C++ compiler
    write("most.lua", "function score(text) return host.count(text, 'e') end\n")
    write("least.lua", "function score(text) return -host.count(text, 'e') end\n")
    local function count(script)
      local code, out, err = host(("chooser run %s 'line 3' 8"):format(script))
      assert.equal(0, code, err)
      assert.equal("line 3", out:sub(1, 6))
      return select(2, out:gsub("e", ""))
    end
    assert.is_true(count "most.lua" > count "least.lua")
    write("raises.lua", "function score(text)\n  return host.count(text)\nend\n")
    local code, _, err = host "chooser run raises.lua x"
    assert.equal(1, code)
    assert.truthy(err:find("raises.lua:2: host.count(text, letter) takes two texts", 1, true), err)
    write("texts.lua", "function score() return 'good' end\n")
    assert.truthy(select(3, host "chooser run texts.lua x"):find("is not a number", 1, true))
    assert.equal(2, (host "chooser run"))
  end)

  it("strangers: whatever a script does, the others and the host go on", function()
    local scripts = {
      good = "local n = 0\nfunction answer(line) n = n + 1 return n .. host.write(line, 5) end",
      loops = "function answer() while true do end end",
      catches = "function answer() while true do pcall(answer) end end",
      eats = "function answer(line) local t = {} for i = 1, 1e9 do t[i] = line .. i end end",
      matches = "function answer() return ('a'):rep(40):find(('.-'):rep(40) .. 'b') end",
      steals = "function answer() return io.open('/etc/passwd'):read 'a' end",
      leaves = "function answer() os.exit(3) end",
      broken = "function answer(",
    }
    local names = {}
    for name, text in require("performer").sorted(scripts) do
      write(name .. ".lua", text .. "\n")
      if name ~= "good" then names[#names + 1] = name .. ".lua" end
    end
    write("lines", "one\ntwo\n")
    local code, out, err = host(("strangers run %s good.lua < lines"):format(
      table.concat(names, " ")))
    assert.equal(0, code, err)
    assert.truthy(out:find "^good.lua: 1.*\ngood.lua: 2", out)
    assert.falsy(out:find("root:", 1, true))
    for _, name in ipairs(names) do
      assert.truthy(err:find(name .. " is asked no more: PF_E", 1, true), name .. "\n" .. err)
    end
    for _, name in ipairs { "loops", "catches", "matches" } do
      assert.truthy(err:find(name .. ".lua is asked no more: PF_ELIMIT", 1, true), err)
    end
  end)
end)
