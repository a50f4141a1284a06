-- commands_process_spec.lua - the program as a process: signals, pipes that nobody reads, full
-- disks, descriptors that were closed before it began, and whatever a script may throw.
local commands = require "spec.support.commands"
local support = require "spec.support"

local exists, good, path, performer, records, SMALL = commands.exists, commands.good,
  commands.path, commands.performer, commands.records, commands.SMALL
local log_of = commands.log_of

describe("the program", function()
  local book

  setup(function()
    commands.start()
    book = commands.train_book()
  end)

  teardown(commands.stop)

  --- The path of a script with this text.
  local function script(text)
    support.write(path "script.lua", text)
    return path "script.lua"
  end

  --- Runs `command` behind, does `signals` once `file` is there, and waits for it.
  local function signalled(command, file, signals)
    return support.shell(([[
      OMP_WAIT_POLICY=passive %s/bin/performer %s &
      n=0
      while [ ! -s %s ] && [ $n -lt 1000 ]; do sleep 0.01; n=$((n + 1)); done
      %s
      wait $!]]):format(support.build, command, file, signals))
  end

  describe("told to end", function()
    it("by any signal that asks for it, train saves and says how to go on", function()
      for _, signal in ipairs { "TERM", "HUP", "XCPU" } do
        local run = path(signal)
        local code, _, err = signalled(("train --data %s --out %s %s --steps 1000000 "
          .. "--eval-every 1000000 --threads 1"):format(path "t.txt", run, SMALL),
          run .. "/log.jsonl", "kill -" .. signal .. " $!")
        assert.are.equal(130, code, err)
        assert.matches("stopped at step %d+; go on with: %S+performer train %-%-resume /", err)
        local step = err:match "stopped at step (%d+)"
        assert.are.equal(("step-%s\n"):format(step), support.read(run .. "/LATEST"))
      end
    end)

    local POLLS = [[
      local pf = require "performer"
      local file = io.open(arg[1], "w")
      file:write "here" file:close()
      local seen
      while true do
        if pf.interrupted() and not seen then seen = true io.write "asked\n" io.flush() end
      end]]

    it("twice at once by one wish, is asked; a second one ends it", function()
      for _, pair in ipairs { { "INT", "TERM" }, { "TERM", "TERM" }, { "HUP", "INT" } } do
        os.remove(path "here")
        local code, out, err = signalled(script(POLLS) .. " " .. path "here", path "here",
          ("kill -%s $!; kill -%s $!; sleep 0.3; echo then; kill -%s $!"):format(pair[1], pair[1],
            pair[2]))
        assert.are.equal(130, code)
        assert.are.equal("asked\nthen\n", out)
        assert.are.equal("performer: interrupted\n", err)
      end
    end)

    it("ends a script that doesn't ask, and one that can't hear", function()
      local begin = ("local f = io.open(%q, 'w') f:write 'here' f:close() "):format(path "here")
      support.shell("mkfifo " .. path "fifo")
      for _, text in ipairs { "while true do end", ("io.open(%q, 'r')"):format(path "fifo") } do
        os.remove(path "here")
        local code, _, err = signalled(script(begin .. text), path "here", "kill -TERM $!")
        assert.are.equal(130, code)
        assert.are.equal("performer: interrupted\n", err)
      end
    end)

    it("by Ctrl-C ends what a coroutine runs", function()
      local begin = ("local f = io.open(%q, 'w') f:write 'here' f:close() "):format(path "here")
      for _, text in ipairs {
        "coroutine.wrap(function() while true do end end)()",
        "for _ in coroutine.wrap(function() while true do coroutine.yield(1) end end) do end",
        "coroutine.wrap(function() coroutine.wrap(function() while true do end end)() end)()",
      } do
        os.remove(path "here")
        local code, _, err = signalled(script(begin .. text), path "here", "kill -INT $!")
        assert.are.equal(130, code)
        assert.are.equal("performer: interrupted\n", err)
      end
    end)

    it("by what nohup ignores, goes on", function()
      os.remove(path "here")
      local code, out = support.shell(([[
        trap '' HUP
        %s/bin/performer %s %s &
        n=0
        while [ ! -s %s ] && [ $n -lt 1000 ]; do sleep 0.01; n=$((n + 1)); done
        kill -HUP $!
        sleep 0.2
        kill -TERM $!
        sleep 0.2
        kill -TERM $!
        wait $!]]):format(support.build, script(POLLS), path "here", path "here"))
      assert.are.equal(130, code)
      assert.are.equal("asked\n", out)
    end)
  end)

  describe("whose output goes nowhere", function()
    --- Runs with redirections or a pipe after it: its own exit code, and what came through.
    local function redirected(arguments, after, before)
      local _, out, err = support.shell(
        ("{ %s OMP_WAIT_POLICY=passive %s/bin/performer %s; echo $? >%s; } %s"):format(before or "",
          support.build, arguments, path "code", after))
      return tonumber(support.read(path "code")), out, err
    end

    local TRAIN = "train --data %s --out %s " .. SMALL .. " --steps 30 --eval-every 10 --threads 1"

    it("trains on, and says so once", function()
      for i, case in ipairs {
        { "", "2>&1 | head -n 1 >/dev/null", 0 }, { " --json", "| head -n 1 >/dev/null", 0 },
        { "", ">&- 2>&- <&-", 0 }, { "", "2>/dev/full", 0 }, { " --json", ">/dev/full", 1 },
        { " --json", ">&-", 1 },
      } do
        local run = path("nowhere" .. i)
        local code, _, err = redirected(TRAIN:format(path "t.txt", run) .. case[1], case[2])
        assert.are.equal(case[3], code, err)
        assert.is_true(log_of(run)[#log_of(run)].final)
        if case[1] == " --json" then
          assert.are.equal(1, select(2, err:gsub("it goes on without, and log.jsonl has", "")), err)
        end
      end
    end)

    it("ends without a word when nobody reads on", function()
      for _, arguments in ipairs {
        ("generate --checkpoint %s --tokens 20"):format(book), "inspect " .. book,
        ("eval --checkpoint %s --data %s --per-sequence"):format(book, path "t.txt"),
        script "while true do print 'on and on' end",
      } do
        local code, _, err = redirected(arguments, "| true", "sleep 0.3;")
        assert.are.equal(141, code, arguments)
        assert.are.equal("", err)
      end
    end)

    it("fails when the disk is full, whatever the script looks at", function()
      for _, text in ipairs { "print 'x'", "io.write 'x'", "io.write 'x' os.exit(0)" } do
        local code, _, err = redirected(script(text), ">/dev/full")
        assert.are.equal(1, code, text)
        assert.is_truthy(err:find "^performer: not all of the standard output could be written")
      end
      local code, _, err = redirected("inspect " .. book, ">/dev/full")
      assert.are.equal(1, code)
      assert.are.equal("performer: can't write to the standard output: No space left on device; "
        .. "make room\n", err)
    end)

    it("fails when the standard output is closed and there is a result", function()
      for _, arguments in ipairs {
        ("eval --checkpoint %s --data %s"):format(book, path "t.txt"), "inspect " .. book,
        ("generate --checkpoint %s --tokens 5"):format(book),
      } do
        local code, _, err = redirected(arguments, ">&-")
        assert.are.equal(1, code, arguments)
        assert.is_truthy(err:find "^performer: can't write to the standard output: Bad file desc")
      end
    end)

    it("fails, and isn't killed, at a limit on file sizes", function()
      local code, _, err = support.shell(("ulimit -f 8; %s/bin/performer %s >%s"):format(
        support.build, script "io.write(('x'):rep(100000))", path "limited"))
      assert.are.equal(1, code)
      assert.is_truthy(err:find "^performer: not all of the standard output could be written")
    end)

    it("doesn't write it into a file that took the place of a closed descriptor", function()
      local text = ("local f = io.open(%q, 'w') print 'lost' io.stderr:write 'lost' f:write 'x' "
        .. "f:close()"):format(path "own.txt")
      assert.are.equal(1, (redirected(script(text), ">&- 2>&- <&-"))) -- what it printed is lost
      assert.are.equal("x", support.read(path "own.txt"))
    end)

    it("leaves what it starts with the system's own signals", function()
      local out = good(script [[print(io.popen "cat /proc/self/status | grep SigIgn":read "a")]])
      local ignored = tonumber(out:match "SigIgn:%s*(%x+)", 16)
      assert.are.equal(0, ignored & (1 << 12)) -- SIGPIPE is 13
    end)
  end)

  describe("whose script throws", function()
    --- text of the script, exit code, what stderr says
    local cases = {
      { "error(setmetatable({}, { __index = function() error 'strict' end }))", 1,
        "the script threw a table that says nothing" },
      { "error(setmetatable({ code = 4 }, { __index = function() error 'strict' end, "
        .. "__tostring = function() return 'its own text' end }))", 4, "its own text" },
      { "error(setmetatable({}, { __tostring = function() error 'no' end }))", 1,
        "the script threw a table that says nothing" },
      { "error(setmetatable({}, { __index = { code = 5, message = 'inherited' } }))", 5,
        "inherited" },
      { "error { code = 'x' }", 1, "the script threw a table that says nothing" },
      { "error { code = -1, message = 'm' }", 1, "m" },
      { "error { code = 300, message = 'm' }", 1, "m" },
      { "error { code = 7 }", 7, "the script threw a table that says nothing" },
      { "error { message = {} }", 1, "table: 0x" },
      { "error { message = 12 }", 1, "12" },
      { "error { message = '' }", 1, "the script threw an empty text" },
      { "error()", 1, "the script threw a nil that says nothing" },
      { "error(print)", 1, "the script threw a function that says nothing" },
      { "error(42)", 1, "42" },
      { "error { message = 'a\\27[31m\\155b' }", 1, "a%?%[31m%?b" },
      { "require 'performer'.exit(3)", 3, "" },
      { "require 'performer'.exit(3, 'said')", 3, "said" },
      { "require 'performer'.exit()", 0, "" },
      { "require 'performer'.exit 'a'", 1,
        "exit: the code must be a whole number from 0 to 255, got string" },
      { "require 'performer'.exit(256)", 1, "exit: the code must be .* got 256" },
      { "require 'performer'.exit(1, {})", 1, "exit: the message must be a text, got table" },
    }

    it("says a word, and ends with a code that is one", function()
      for _, case in ipairs(cases) do
        local code, _, err = performer(script(case[1]))
        assert.are.equal(case[2], code, case[1] .. "\n" .. err)
        if case[3] == "" then
          assert.are.equal("", err, case[1])
        else
          assert.is_truthy(err:find("^performer: .*" .. case[3]), case[1] .. "\n" .. err)
        end
      end
    end)
  end)

  it("tells a script that it can't read, and a processor that is none, in one sentence", function()
    for _, case in ipairs {
      { path "none.lua", "", "can't read .*none%.lua: No such file or directory" },
      { "run -", "", "a script within limits is a file" },
      { "inspect " .. book, "PF_CPU=foo", "PF_CPU=foo is none of generic" },
      { script "print(1)", "PF_CPU=foo", "PF_CPU=foo is none of generic" },
    } do
      local code, out, err = performer(case[1], case[2])
      assert.are.equal(2, code)
      assert.are.equal("", out)
      assert.is_truthy(err:find("^performer: [^\n]*" .. case[3] .. "[^\n]*\n$"), err)
    end
    assert.are.equal(1, #records(good("inspect --json " .. book, "PF_CPU=generic")))
    assert.is_true(exists(book))
  end)
end)
