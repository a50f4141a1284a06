-- start_spec.lua - what the program's command line asks for beside commands (bindings/start.c):
-- pieces of Lua, scripts, the standard input, a prompt behind them, and its history file.
local pf = require "performer"
local support = require "spec.support"

describe("the program's way in", function()
  it("runs Lua of the command line, with pf at hand", function()
    local code, out = support.performer "-e 'print(pf.ones(2):sum():item())' -e 'print(nn.linear)'"
    assert.equal(0, code)
    assert.matches("^2.0\nfunction: ", out)
    for text, message in pairs { ["error [[bad]]"] = "bad\nstack traceback:\n",
                                 ["x = = 1"] = "unexpected symbol near '='\n" } do
      local bad, _, err = support.performer(("-e '%s'"):format(text))
      assert.equal(1, bad)
      message = "performer: (command line):1: " .. message
      assert.equal(message, err:sub(1, #message))
      assert.is_true(err == message or text:find "error" ~= nil, err)
    end
    assert.equal(5, (support.performer "-e 'pf.exit(5)'"))
  end)

  it("tells the calls that are the user's, and no others", function()
    local file = support.folder() .. "/s.lua"
    support.write(file, [[
      local function f(n)
        if n == 0 then return nil + pf.nn.linear { from = 1 } end
        local made = f(n - 1)
        return made
      end
      pf = require "performer"
      f(given)]])
    local function trace(words)
      local code, _, err = support.shell(words:format(support.build .. "/bin/performer", file))
      assert.equal(1, code)
      local lines = {}
      for line in err:gmatch "\n\t([^\n]*)" do lines[#lines + 1] = line:gsub(".*/", "") end
      return lines
    end
    local linear, call = "[C]: in function 'performer.core.new_module'", "s.lua:3: in upvalue 'f'"
    assert.same({ linear, "s.lua:2: in upvalue 'f'", call, "s.lua:3: in local 'f'",
                  "s.lua:7: in main chunk" }, trace "%s -e 'given = 2' %s")
    local deep = trace "%s -e 'given = 40' %s"
    assert.equal(linear, deep[1])
    assert.matches("^%.%.%.\t%(skipping %d+ levels%)$", deep[10])
    assert.equal(call, deep[#deep - 2])
    assert.equal("s.lua:7: in main chunk", deep[#deep])
    assert.same({ "[C]: in function 'error'", "stdin:1: in main chunk" },
                trace "echo 'error \"x\"' | %s -")
    os.remove(file)
  end)

  it("tells what was meant by a script in another language, or for another library", function()
    local file = support.folder() .. "/s.lua"
    for text, told in pf.sorted {
      ["local x = 1\nx += 1"] = ": syntax error near '+'; it is x = x + 1",
      ["import torch"] = ":1: syntax error near 'torch'; it is local pf = require \"performer\"",
      ["local x = pf.ones(1)"] = "(global 'pf'); it is local pf = require \"performer\"",
      ["local x = torch.randn(2)"] = "(global 'torch'); it is pf.randn",
      ["local x\nprint(len(x))"] = "(global 'len'); it is #t, or t:size(1) of a tensor",
      ["require 'torch'"] = "module 'torch' not found; it is local pf = require \"performer\":",
      ["require 'torches'"] = "module 'torches' not found:",
      ["x = = 1"] = "unexpected symbol near '='", ["error 'near nothing'"] = ":1: near nothing",
    } do
      support.write(file, text)
      local code, _, err = support.performer(file)
      assert.equal(1, code)
      local first = err:match "[^\n]*"
      assert.equal(told, first:sub(-#told), first)
      code, _, err = support.performer(("-e %q"):format(text:gsub("\n", " ")))
      first = err:gsub("\n\t.*", ""):gsub("\nstack.*", ""):gsub("\n$", "")
      if not text:find "^local x = pf" then
        assert.equal(1, code)
        assert.equal(told, first:sub(-#told), first)
      end
    end
    support.write(file, "a @ b \5 =") -- no text of anybody's
    assert.matches("near '@'\n$", select(3, support.performer(file)))
    os.remove(file)
  end)

  it("then a script, with its own words", function()
    local file = support.folder() .. "/s.lua"
    support.write(file, "print(given, arg[0], ...)")
    local code, out = support.performer(("-e 'given = 1' %s a -e b"):format(file))
    assert.equal(0, code)
    assert.equal("1\t" .. file .. "\ta\t-e\tb\n", out)
    os.remove(file)
  end)

  it("runs a script from the standard input", function()
    for words, expected in pairs { [""] = "in\n", ["-"] = "in\n", ["- a b"] = "in\ta\tb\n" } do
      local code, out, err = support.shell(("echo \"print('in', ...)\" | %s/bin/performer %s")
        :format(support.build, words))
      assert.equal(0, code, err)
      assert.equal(expected, out)
    end
    local code, _, err = support.shell(("echo 'error \"x\"' | %s/bin/performer -")
      :format(support.build))
    assert.equal(1, code)
    assert.matches("^performer: stdin:1: x\n", err)
    assert.equal(2, (support.performer "</dev/null"))
  end)

  it("is a prompt behind them with -i, of a pipe too", function()
    local code, out, err = support.shell(("printf '%%s\\n' 'given + 1' 'for i = 1, 2 do' 'end' "
      .. "'err()' | PF_HISTORY=off %s/bin/performer -i -e 'given = 41'"):format(support.build))
    assert.equal(0, code)
    assert.equal("", err)
    assert.matches("pf> 42\npf>   > pf> error: attempt to call a nil value [^\n]*\npf> \n$", out)
    assert.is_nil(out:find "\27")
  end)

  it("reads its lines where io.read leaves them, and not as what io.read took", function()
    local code, out = support.shell(("printf '%%s\\n' 'io.read()' 'one two' 'io.read(3)' 'abc 1' "
      .. "'2 + 2' | PF_HISTORY=off %s/bin/performer -i"):format(support.build))
    assert.equal(0, code)
    assert.matches('pf> "one two"\npf> "abc"\npf> 1\npf> 4\npf> \n$', out)
  end)

  it("leaves the engine to the user, who opens it as he likes", function()
    local _, out = support.shell(("printf '%%s\\n' 'pf.open { threads = 1, seed = 7 }' "
      .. "'pf.info().threads, pf.info().seed' | PF_HISTORY=off %s/bin/performer -i")
      :format(support.build))
    assert.matches("\npf> pf> 1  7\n", out)
  end)

  it("alone is what edits lines: the module knows no libedit", function()
    local code, out = support.shell(("ldd %s/lua/performer.so"):format(support.build))
    assert.equal(0, code)
    assert.is_nil(out:find "libedit")
  end)

  it("refuses what it has no use for", function()
    for words, message in pairs {
      ["-e"] = "Lua is needed behind '%-e'", ["-i train"] = "a FILE.lua or %- is needed",
      ["-x"] = "no option '%-x'", ["-e '' none.lua"] = "can't read none.lua",
    } do
      local code, _, err = support.performer(words)
      assert.equal(2, code, words)
      assert.matches(message, err)
    end
  end)

  it("waits for no history file that somebody holds", function()
    local folder = support.folder()
    local file = folder .. "/history"
    support.write(file, "before\n")
    local code, out = support.shell(([[cd %s
      flock history sh -c 'touch held; while [ ! -e done ]; do sleep 0.02; done' &
      while [ ! -e held ]; do sleep 0.02; done; cd "$OLDPWD"
      printf '%%s\n' '1 + 1' '2 + 2' | PF_HISTORY=%s timeout 60 %s/bin/performer -i
      code=$?; touch %s/done; wait; exit $code]]):format(folder, file, support.build, folder))
    assert.equal(0, code)
    assert.matches("pf> 2\npf> 4\npf> \n$", out)
    assert.equal("before\n", support.read(file))
    support.remove(folder)
  end)

  it("keeps a history file of the last megabyte, that two sessions share", function()
    local folder = support.folder()
    local file = folder .. "/new/folder/history"
    local function run(lines)
      return support.shell(("printf '%%s\\n' %s | PF_HISTORY=%s %s/bin/performer -i"):format(lines,
        file, support.build))
    end
    assert.equal(0, (run "1 ' 2' 'do' 'end'"))
    assert.equal("1\ndo\\nend\n", support.read(file))
    local _, mode = support.shell("stat -c %a " .. file)
    assert.equal("600\n", mode)
    support.write(file, ("x = 'a line that is long'\n"):rep(60000))
    assert.equal(0, (run "3"))
    local text = support.read(file)
    assert.is_true(#text <= (1 << 20) + 2)
    assert.equal("x = 'a line that is long'\n", text:sub(1, 26))
    assert.equal("x = 'a line that is long'\n3\n", text:sub(-28))
    support.shell(("for i in 1 2 3 4; do printf '%%s\\n' $i$i $i | PF_HISTORY=%s %s/bin/performer "
      .. "-i >%s/out$i & done; wait"):format(file, support.build, folder))
    local seen = support.read(file):sub(#text + 1)
    for i = 1, 4 do
      assert.is_truthy(seen:find(("%d%d\n"):format(i, i), 1, true))
    end
    assert.equal(20, #seen)
    support.remove(folder)
  end)
end)
