-- commands_spec.lua - the commands as their users meet them: exit codes, one sentence for a
-- mistake, what a full disk or a flipped byte does, and what is printed where. Training is in
-- commands_train_spec.lua, the fields of --json in commands_json_spec.lua.
local commands = require "spec.support.commands"
local pf = require "performer"
local support = require "spec.support"

local assert_sentence, copy, exists, good = commands.assert_sentence, commands.copy,
  commands.exists, commands.good
local log_of, path, performer, records = commands.log_of, commands.path, commands.performer,
  commands.records
local SMALL, train = commands.SMALL, commands.train

describe("the commands", function()
  local book, folder

  setup(function()
    folder = commands.start()
    book = commands.train_book()
  end)

  teardown(commands.stop)

  describe("bad input", function()
    --- arguments, exit code, what the sentence says; @ stands for the folder of the spec.
    local cases = {
      { "train --data @/none.txt", 1, "none%.txt: No such file or directory; check the path" },
      { "train --data @", 1, "is a folder; name a file" },
      { "train --data @/empty.fasta", 1, "the file is empty; give" },
      { "train --data @/cut.fasta.gz", 1, "cut short after %d+ bytes; copy the file again" },
      { "train --data @/digit.fasta", 1,
        "digit%.fasta:4: 'b': '1'.* no amino%-acid letter; correct this record" },
      { "train --data @/ten.txt", 1, "too small to train on.*; give more text" },
      { "train --data @/t.txt --heads 3 --dim 16", 2,
        "%-%-heads 3 does not divide %-%-dim 16; try %-%-heads 2" },
      { "train --data @/t.txt --haeds 4", 2,
        "unknown option '%-%-haeds' %(did you mean '%-%-heads'%?%)" },
      { "train --data @/t.txt --steps many", 2, "%-%-steps: 'many' is not a whole number from 1" },
      { "train --data @/t.txt --steps 0", 2, "%-%-steps: '0' is not a whole number from 1" },
      { "train --data @/t.txt --steps", 2, "'%-%-steps' requires an argument" },
      { "train --data @/t.txt --steps 5 --minutes 1", 2, "%-%-steps or %-%-minutes, not both" },
      { "train --data @/t.txt --attention sofmax", 2, "no 'sofmax' %(did you mean 'softmax'%?%)" },
      { "train --data @/t.txt --act tanhh --steps 5", 2,
        "performer: %-%-act must be one of gelu.*%-%-help" },
      { "train --data @/t.txt --dropout 2 --steps 5", 2, "%-%-dropout must be a number from 0" },
      { "train --data @/t.txt --memory much", 2, "%-%-memory: 'much' is no amount of memory" },
      { "train --data @/t.txt --lr -1", 2, "%-%-lr: '%-1' is not a number from 0" },
      { "train --data @/t.txt --steps -inf", 2, "%-%-steps: '%-inf' is not a whole number from 1" },
      { "train --data @/t.txt --dropout -.5", 2, "%-%-dropout must be a number from 0" },
      { "train --data @/t.txt --steps --json", 2, "'%-%-steps' requires an argument" },
      { "train --data @/t.txt --positions lerned", 2, "got 'lerned' %(did you mean 'learned'%?%)" },
      { "train --data @/t.txt --qk-norm onn", 2, "one of 'on', 'off'; got 'onn' %(did you mean" },
      { "train --data @/t.txt more", 1, "more: No such file or directory; check the path" },
      { "train more --data @/t.txt", 2, "'more' stands where %-%-data is meant, .* once" },
      { "train", 2, "%-%-data FILE" },
      { "train @/book", 2, "is a run, and no data: go on with it %(%-%-resume .*book%)" },
      { "train @/t.txt --attention linear", 2, "it is 'favor' .* or the name of a kernel" },
      { "train @/t.txt --act swish", 2, "got 'swish'; it is 'silu'" },
      { "train @/t.txt --scale 0", 2, "%-%-scale 0 makes all features alike" },
      { "train @/t.txt --bidirectional yes", 2, "got 'yes'; it is 'on'" },
      { "train @/t.txt -ngl 3", 2, "unknown option '%-ngl'; everything runs on the CPU" },
      { "eval @/t.txt @/book", 2, "the run comes first: %S+performer eval .*book .*t%.txt" },
      { "eval @/book @/t.txt --data @/t.txt", 2, "stands where %-%-data is meant" },
      { "generate @/book a b", 2, "a place for RUN and PROMPT; what has blanks in it is quoted" },
      { "generate --model @/book", 2, "%-%-model is a Lua file" },
      { "train --data @/t.txt --out @/t.txt/run --steps 5", 1, "t%.txt is a file; choose another" },
      { "train --data @/t.txt --out /proc/none/run --steps 5", 1,
        "can't make the folder /proc/none: No such file or directory; check the path" },
      { "train --data @/t.txt --out @/book --steps 5", 2, "holds a run already.*%-%-resume" },
      { "train --data @/t.txt --attention sliding --window 0", 2, "%-%-window must be" },
      { "train --data @/t.txt --model @/none.lua", 1, "none%.lua: No such file.*; check the path" },
      { "train --resume @/none", 1, "none: No such file or directory; check the path" },
      { "train --resume @", 1, "checkpoint: none in" },
      { "train --resume @/book --dim 32", 2, "%-%-dim can't change with %-%-resume" },
      { "train --resume @/book --steps 30", 2, "has done 40 steps already; %-%-steps must be" },
      { "eval --checkpoint @/book --data @/t.txt --split vaild", 2,
        "one of 'all', 'train', 'valid'; got 'vaild' %(did you mean 'valid'%?%)" },
      { "eval --data @/t.txt", 2, "needs %-%-checkpoint" },
      { "eval --checkpoint @/book --data @/none.txt", 1, "none%.txt: No such file.*; check the" },
      { "eval --checkpoint @/book --data @/p.fasta", 1, "reads byte tokens.*; give it a text" },
      { "eval --checkpoint @/none --data @/t.txt", 1, "none: No such file or directory" },
      { "generate", 2, "needs %-%-checkpoint" },
      { "generate --checkpoint @/book --top-p 2", 2, "%-%-top%-p must be above 0 and at most 1" },
      { "generate --checkpoint @/book --token 2", 2, "did you mean '%-%-tokens'" },
      { "inspect @/t.txt", 1, "t%.txt: no safetensors file" },
      { "inspect @/none", 1, "none: No such file or directory; check the path" },
      { "inspect", 2, "missing argument 'path'" },
      { "bench", 2, "bench: say what to measure: attention, block" },
      { "bench nothing", 2, "must be one of 'attention'" },
      { "bench generat", 2, "got 'generat' %(did you mean 'generate'%?%)" },
      { "bench attention --kernel rleu", 2, "no 'rleu' %(did you mean 'relu'%?%)" },
      { "trian", 2, "did you mean 'train'" },
    }

    it("gives one sentence on stderr, and exit code 1 or 2", function()
      for _, case in ipairs(cases) do
        local arguments = case[1]:gsub("@", folder)
        if arguments:find "^train" and not arguments:find "%-%-out" and
            not arguments:find "resume" then
          arguments = arguments .. " --out " .. path "never"
        end
        local code, out, err = performer(arguments)
        assert.are.equal(case[2], code, arguments .. "\n" .. err)
        assert.are.equal("", out, arguments)
        assert_sentence(err, case[3])
        assert.are.equal(1, select(2, err:gsub("\n", "")), arguments .. "\n" .. err)
      end
      assert.is_false(exists(path "never"), "a mistake must not leave a folder behind")
    end)

    it("keeps the traceback for mistakes in a script", function()
      support.write(path "broken.lua", "return function(o)\n  local x\n  return x.y\nend\n")
      local code, _, err = performer(("train --data %s --model %s --out %s"):format(path "t.txt",
        path "broken.lua", path "never"))
      assert.are.equal(1, code)
      assert.is_truthy(err:find "broken%.lua:3: attempt to index")
      assert.is_truthy(err:find("stack traceback", 1, true))
      assert.is_nil(err:find("[C]: in ", 1, true), err) -- what runs a command is none of it
      support.write(path "syntax.lua", "return = 3\n")
      code, _, err = performer(("train --data %s --model %s --out %s"):format(path "t.txt",
        path "syntax.lua", path "never"))
      assert.are.equal(1, code)
      assert.is_truthy(err:find "syntax%.lua:1: unexpected symbol")
      assert.is_nil(err:find("traceback", 1, true))
    end)

    it("says what to do when the byte budget is too small", function()
      local code, _, err = performer(("train --data %s --out %s --memory 600K --threads 1 %s "
        .. "--steps 5"):format(path "t.txt", path "budget", SMALL))
      assert.are.equal(1, code)
      assert_sentence(err, "out of memory.*budget %d+; raise %-%-memory, or lower")
    end)

    it("stops when the gradient or the loss is no longer finite", function()
      local code, _, err = performer(("train --data %s --out %s --lr 100000 --threads 1 %s "
        .. "--steps 80"):format(path "t.txt", path "blown", SMALL))
      assert.are.equal(1, code)
      assert_sentence(err, "lower %-%-lr")
    end)

    it("finds a flipped byte, and goes on with the checkpoint before", function()
      local run = copy(book, "flipped")
      local file = assert(io.open(run .. "/step-40/model.safetensors", "r+b"))
      local at = file:seek "end" - 100
      file:seek("set", at)
      local byte = file:read(1):byte()
      file:seek("set", at)
      file:write(string.char(byte ~ 1))
      file:close()
      local code, out, err = performer(("eval --checkpoint %s/step-40 --data %s --json"):format(run,
        path "t.txt"))
      assert.are.equal(1, code)
      assert.are.equal("", out)
      assert_sentence(err, "model%.safetensors in .*step%-40 is damaged.*; copy it again")
      out, err = good(("eval --checkpoint %s --data %s --json"):format(run, path "t.txt"))
      assert.is_truthy(err:find "damaged.*going on with step%-20")
      local older = good(("eval --checkpoint %s/step-20 --data %s --json"):format(book,
        path "t.txt"))
      assert.are.equal(records(older)[1].loss, records(out)[1].loss)
    end)

    it("keeps the last good checkpoint when the disk fills while saving", function()
      local run = copy(book, "full")
      local before = support.read(run .. "/step-40/model.safetensors")
      local code, _, err = support.shell(("trap '' XFSZ; ulimit -f 40; exec %s/bin/performer train "
        .. "--resume %s --steps 60 --eval-every 50 --threads 1"):format(support.build, run))
      assert.are.equal(1, code)
      assert_sentence(err, "step 50 is not saved: .*File too large; raise .*; the last good "
        .. "checkpoint stands; go on with: %S+performer train %-%-resume")
      assert.is_false(exists(run .. "/step-50/manifest.json"))
      assert.are.equal("step-40\n", support.read(run .. "/LATEST"))
      assert.are.equal(before, support.read(run .. "/step-40/model.safetensors"))
      assert.are.equal("", (select(2, support.shell(("ls -A %s | grep tmp"):format(run)))))
      good(("train --resume %s --steps 60 --threads 1"):format(run))
      assert.are.equal(60, log_of(run)[#log_of(run)].step)
    end)

    it("says when the output can't be written", function()
      if not exists "/dev/full" then return pending "no /dev/full here" end
      local code, _, err = support.shell(("%s/bin/performer inspect %s --json >/dev/full")
        :format(support.build, book))
      assert.are.equal(1, code)
      assert_sentence(err, "standard output: No space left on device")
    end)
  end)

  describe("output", function()
    it("has no escape and no carriage return in a pipe", function()
      local run, out, err = train("piped", ("--data %s --steps 60 --eval-every 10 --threads 1")
        :format(path "t.txt"))
      local more, also = good(("eval --checkpoint %s --data %s"):format(run, path "t.txt"))
      for _, text in ipairs { out, err, more, also } do assert.is_nil(text:find "[\27\r]") end
      assert.is_truthy(err:find "\nstep 50/60 +training %d")
    end)

    it("is one line on a terminal, rewritten in place and never wider than it", function()
      if support.shell "script -qec true /dev/null" ~= 0 then
        return pending "no script(1), or no terminals for it to make"
      end
      local command = ("stty cols 40; exec %s/bin/performer train --data %s --out %s %s --steps 60 "
        .. "--eval-every 10 --threads 1"):format(support.build, path "t.txt", path "terminal",
        SMALL)
      local _, out = support.shell(("script -qec '%s' /dev/null"):format(command))
      local seen = 0
      for line in out:gmatch "\r([^\r\n]*)\27%[K" do
        seen = seen + 1
        assert.is_true(#line < 40, line)
        assert.is_truthy(line:find "^step %d+/60  ")
      end
      assert.is_true(seen >= 3)
      assert.is_nil(out:find "\27%[[^K]")
    end)

    it("has neither on a terminal that takes none", function()
      if support.shell "script -qec true /dev/null" ~= 0 then
        return pending "no script(1), or no terminals for it to make"
      end
      for i, word in ipairs { "TERM=dumb", "TERM=xterm NO_COLOR=1", "unset TERM;" } do
        local command = ("%s exec %s/bin/performer train --data %s --out %s %s --steps 60 "
          .. "--eval-every 10 --threads 1"):format(word, support.build, path "t.txt",
          path("dumb" .. i), SMALL)
        local _, out = support.shell(("script -qec '%s' /dev/null"):format(command))
        assert.is_truthy(out:find "step 50/60 +training %d")
        assert.is_nil(out:gsub("\r\n", "\n"):find "[\27\r]")
      end
    end)

    it("of generate ends where learned positions do, and says so before", function()
      local run = train("learned", ("--data %s --positions learned --steps 2 --threads 1"):format(
        path "t.txt"))
      local out, err = good(("generate --checkpoint %s --prompt 'the ' --tokens 100 --json"):format(
        run))
      assert.are.equal(29, records(out)[1].tokens)
      assert.is_truthy(err:find "generate: 29 tokens at most: .* learned positions end at 32\n")
      local code, nothing, why = performer(("generate --checkpoint %s --prompt '%s'"):format(run,
        ("x"):rep(33)))
      assert.are.equal(1, code)
      assert.are.equal("", nothing)
      assert_sentence(why, "the prompt has 33 tokens, and .* end at 32; give a shorter one")
    end)

    it("of eval keeps within learned positions, and says so", function()
      local run = path "learned"
      good(("eval --checkpoint %s --data %s"):format(run, path "t.txt"))
      local code, out, err = performer(("eval --checkpoint %s --data %s --length 33"):format(run,
        path "t.txt"))
      assert.are.equal(2, code)
      assert.are.equal("", out)
      assert_sentence(err, "learned positions end at 32; take %-%-length 32 or less")
      local text = support.read(path "t.txt"):sub(1, 65) -- 64 are predicted: two parts of 32
      support.write(path "two.txt", text)
      support.write(path "first.txt", text:sub(1, 33))
      support.write(path "second.txt", text:sub(33))
      local losses = {}
      for i, name in ipairs { "two", "first", "second" } do
        out, err = good(("eval --checkpoint %s --data %s --per-sequence --json"):format(run,
          path(name .. ".txt")))
        losses[i] = records(out)[1].loss
        assert.are.equal(i == 1, err:find("learned positions end", 1, true) ~= nil)
      end
      assert.near(losses[1], (losses[2] + losses[3]) / 2, 1e-5)
    end)

    it("shows no control character of a file's names", function()
      pf.save(path "names.safetensors", { ["a\27[31m\nb\xc2\x9b"] = pf.ones(2) },
        { ["key"] = "v\27]0;x\7" })
      local out = good("inspect " .. path "names.safetensors")
      assert.is_truthy(out:find("a?[31m?b??", 1, true))
      assert.is_nil(out:gsub("\n", ""):find "[%c\x80-\xff]")
      local bad = path "no\27[7m\nfile"
      local code, _, err = performer(("inspect '%s'"):format(bad))
      assert.are.equal(1, code)
      assert.is_nil(err:find "\27")
    end)

    it("of --help shows options and examples", function()
      for _, command in ipairs { "train", "eval", "generate", "inspect", "bench" } do
        local out, err = good(command .. " --help")
        assert.are.equal("", err)
        assert.is_truthy(out:find("Usage: performer " .. command, 1, true))
        assert.is_truthy(out:find("Examples:\n  performer " .. command, 1, true))
        assert.is_truthy(out:find("--json", 1, true))
      end
      local out = good "--help"
      for _, command in ipairs { "train", "eval", "generate", "inspect", "bench" } do
        assert.is_truthy(out:find("\n  " .. command, 1, true))
      end
      local wide = {}
      for command in out:match "commands:\n(.-)\n\n":gmatch "%f[^\n%z]  (%w+)" do
        for line in good(command .. " --help"):gmatch "[^\n]+" do
          if utf8.len(line) > 80 then wide[#wide + 1] = line end
        end
      end
      for line in out:gmatch "[^\n]+" do
        if utf8.len(line) > 80 then wide[#wide + 1] = line end
      end
      assert.same({}, wide)
    end)

    it("has a picture that is well-formed XML, whatever the file is called", function()
      support.shell(("cp %s '%s'"):format(path "t.txt", path "a<b> & \"c\".txt"))
      local run = train("picture", ("--data '%s' --steps 30 --eval-every 10 --threads 1"):format(
        path "a<b> & \"c\".txt"))
      local text = support.read(run .. "/loss.svg")
      local open, rest = {}, text
      rest = rest:gsub("<(/?)([%a]+)([^<>]*)>", function(closing, name, attributes)
        if closing == "/" then
          assert.are.equal(name, table.remove(open))
        elseif attributes:sub(-1) ~= "/" then
          open[#open + 1] = name
        end
        local left = attributes:gsub('%s+[%w%-]+="[^"<]*"', ""):gsub("/$", "")
        assert.are.equal("", left)
        return ""
      end)
      assert.are.same({}, open)
      assert.is_nil(rest:find "[<>]")
      assert.is_nil(rest:gsub("&%a+;", ""):find "&")
      assert.is_truthy(text:find("a&lt;b&gt; &amp; &quot;c&quot;.txt", 1, true))
      assert.is_truthy(text:find '<svg xmlns="http://www.w3.org/2000/svg"')
    end)
  end)
end)
