-- again_spec.lua - scripts/again with a command in mpirun's place: which exit codes start it anew,
-- when it gives up, what becomes of signals, and of an mpirun that waits for a lost host.
local lfs = require "lfs"

local HOME = lfs.currentdir()

local function read(path)
  local file = io.open(path)
  if not file then return nil end
  local text = file:read "a"
  file:close()
  return text
end

local function write(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end

describe("scripts/again", function()
  local folder

  before_each(function()
    folder = os.tmpname()
    os.remove(folder)
    lfs.mkdir(folder)
    lfs.mkdir(folder .. "/run")
  end)

  after_each(function() os.execute("rm -rf " .. folder) end)

  --- A script in place of mpirun: it writes a line to `starts`, then does as told; $n is the number
  -- of this start.
  local function mpirun(body)
    write(folder .. "/mpirun", "#!/bin/sh\ncd " .. folder .. "\nprintf '%s\\n' \"$*\" >>starts\n"
      .. "n=$(wc -l <starts)\n" .. body)
    os.execute("chmod +x " .. folder .. "/mpirun")
  end

  local function starts()
    return select(2, (read(folder .. "/starts") or ""):gsub("\n", ""))
  end

  --- Exit code and what was said of `again OPTIONS -- mpirun --out RUN`, started by `by`.
  local function again(options, by)
    local line = ("cd %s; %s %s/scripts/again %s -- ./mpirun -n 2 --out run --continue")
      :format(folder, by or "", HOME, options)
    local _, _, code = os.execute(("(%s) >%s/said 2>&1"):format(line, folder))
    return code, read(folder .. "/said")
  end

  it("starts the command anew after a lost rank, and ends with its exit code", function()
    for _, lost in ipairs { 75, 137, 9 } do
      os.remove(folder .. "/starts")
      mpirun(("[ $n -lt 3 ] && exit %d\nexit 0\n"):format(lost))
      local code, said = again "--pause 0"
      assert.equal(0, code)
      assert.equal(3, starts())
      assert.matches(("exit code %d: starting again in 0 s"):format(lost), said)
      assert.equal("-n 2 --out run --continue\n", read(folder .. "/starts"):match "^[^\n]*\n")
    end
  end)

  it("leaves every other exit code alone", function()
    for _, other in ipairs { 0, 1, 2, 130 } do
      os.remove(folder .. "/starts")
      mpirun(("exit %d\n"):format(other))
      assert.equal(other, (again "--pause 0"))
      assert.equal(1, starts())
    end
  end)

  it("gives up after so many starts in a row that saved nothing", function()
    mpirun "[ $n -eq 2 ] && echo step-$n >run/LATEST\nexit 75\n"
    local code, said = again "--times 3 --pause 0"
    assert.equal(75, code)
    assert.equal(5, starts()) -- the second saved
    assert.matches("nothing was saved in 3 starts in a row: given up", said)
  end)

  it("kills a command that goes on after a rank was lost, and starts anew", function()
    mpirun "[ $n -gt 1 ] && exit 0\ntrap '' TERM INT HUP\necho lost >run/LOST\nsleep 600 & wait\n"
    local code, said = again "--pause 0 --lost 1"
    assert.equal(0, code)
    assert.equal(2, starts())
    assert.matches("LOST is there and the command still runs: killed", said)
    assert.is_nil(lfs.attributes(folder .. "/run/LOST"))
  end)

  it("hands SIGTERM and SIGINT on as SIGUSR1, waits, and starts nothing after it", function()
    for _, signal in ipairs { "TERM", "INT" } do
      os.remove(folder .. "/starts")
      mpirun(("trap 'echo saved >run/LATEST; exit 75' USR1\nkill -s %s $PPID\n"):format(signal)
        .. "while :; do sleep 0.1; done\n")
      assert.equal(75, (again "--pause 0"))
      assert.equal(1, starts())
      assert.equal("saved\n", read(folder .. "/run/LATEST"))
    end
  end)

  it("hands a second wish on as SIGTERM", function()
    mpirun("trap 'kill -s TERM $PPID' USR1\ntrap 'exit 9' TERM\nkill -s TERM $PPID\n"
      .. "while :; do sleep 0.1; done\n")
    assert.equal(9, (again "--pause 0"))
    assert.equal(1, starts())
  end)

  it("ends in the pause between two starts", function()
    mpirun "(sleep 1; kill -s TERM $PPID) >/dev/null 2>&1 &\nexit 75\n"
    assert.equal(143, (again "--pause 600"))
    assert.equal(1, starts())
  end)

  it("says what is wrong with its own words", function()
    mpirun "exit 0\n"
    local function refused(words, pattern)
      local out = assert(io.popen(HOME .. "/scripts/again " .. words .. " 2>&1; echo code $?"))
      local said = out:read "a"
      out:close()
      assert.matches(pattern, said)
      assert.matches("code 2\n$", said)
    end
    refused("", "no command")
    refused("--times x -- true", "%-%-times needs a whole number")
    refused("--often 3 -- true", "unknown option %-%-often")
    refused("mpirun", "unknown option mpirun")
  end)
end)
