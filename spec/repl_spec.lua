-- repl_spec.lua - the prompt without a terminal: a session takes lines and gives text
-- (bindings/performer/repl). Tab: completion_spec.lua. What a terminal adds:
-- spec/c/prompt_test.c. How the program comes to it: start_spec.lua.
local pf = require "performer"
local history = require "performer.repl.history"
local repl = require "performer.repl"
local support = require "spec.support"

--- A session whose clock stands still, unless it gets one: nothing takes long.
local function session(options)
  _G.pf, _G.nn = pf, pf.nn
  options = options or {}
  options.clock = options.clock or function() return 0 end
  return repl.session(options)
end

--- What the last of some lines gives.
local function output(lines, options)
  local s, last = session(options), nil
  for line in (lines .. "\n"):gmatch "([^\n]*)\n" do last = s:feed(line) end
  return last
end

describe("the prompt", function()
  local globals = {}

  before_each(function()
    for name, value in pairs(_G) do globals[name] = value end
  end)
  after_each(function()
    for name in pairs(_G) do
      if globals[name] == nil then _G[name] = nil end
    end
  end)

  describe("runs what is typed:", function()
    it("expressions and statements", function()
      for text, expected in pairs {
        ["1 + 1"] = "2", ["= 1 + 1"] = "2", ["return 3"] = "3", ["1, nil, 'x'"] = '1  nil  "x"',
        ["nil"] = "nil", ["x = 5"] = "", ["(function() end)()"] = "", ["-- nothing"] = "",
        ["5 -- five"] = "5", [""] = "", ["   "] = "", ["spec_none"] = "nil",
        ["math.type(3)"] = '"integer"', ["#'\u{e9}'"] = "2",
        ["x = 5; x"] = "5", ["local x = 6; x + 1, ';'"] = '7  ";"', ["x = 5; y = 6; y, x"] = "6  5",
        ["x = 5;"] = "",
      } do assert.equal(expected, output(text), text) end
    end)

    it("the last value is _", function()
      assert.equal("9", output "3\n_ * _\n_")
      assert.equal("3", output "3\nx = 1\n_")
    end)

    it("names that are local stay, and are nobody else's", function()
      assert.equal("3", output "local a, b = 1, 2\na + b")
      assert.equal("nil", output "local spec_a = 1\n_G.spec_a")
      assert.equal("1", output "spec_a = 1\n_G.spec_a")
      assert.equal("120", output "local function f(n) return n < 2 and 1 or n * f(n - 1) end\nf(5)")
      assert.equal("11", output "function spec_f() n = n + 1 return n end\nlocal n = 10\nspec_f()")
      assert.equal("1  2  nil", output "local a, b <const>, c = 1, 2\na, b, c")
      assert.equal("nil", output "local a = 1\nlocal a\na")
      assert.equal("7", output "local print = 7\nprint")
      assert.equal("nil", output "do local a = 1 end\na")
      assert.equal("3", output "local a = (function() local a = 3 return a end)() \na")
      assert.equal('"local x"', output "local a = 'local x'\na")
      assert.equal("2", output "if true then local a = 1 end local a = 2 -- local b\na")
    end)

    it("what is local and to be closed is, once it is declared anew, or at the end", function()
      local s = session()
      _G.spec_log = {}
      s:feed "function spec_make(n) return setmetatable({}, { __close = function() "
      s:feed "spec_log[#spec_log + 1] = n end }) end"
      s:feed "local a <close> = spec_make(1)"
      s:feed "local b <close>, c = spec_make(2)"
      assert.same({}, _G.spec_log)
      s:feed "local a <close> = spec_make(3)"
      assert.same({ 1 }, _G.spec_log)
      s:close()
      assert.same({ 1, 3, 2 }, _G.spec_log)
    end)

    it("a tape is open from one line to the next", function()
      assert.equal("true", output [[
local w = pf.ones(2)
local tape <close> = pf.tape()
local loss = (w * w):sum()
local tape <close> = pf.tape()
not loss:alive()]])
    end)
  end)

  describe("goes on in the next line", function()
    it("until a chunk is complete", function()
      local s = session()
      for _, line in ipairs { "for i = 1, 3 do", "  spec_n = (spec_n or 0) + i" } do
        local text, more = s:feed(line)
        assert.equal("", text)
        assert.is_true(more)
      end
      local text, more, whole = s:feed "end"
      assert.equal("", text)
      assert.is_falsy(more)
      assert.equal("for i = 1, 3 do\n  spec_n = (spec_n or 0) + i\nend", whole)
      assert.equal("6", (s:feed "spec_n"))
    end)

    it("after an operator, in a long text, in braces", function()
      assert.equal("3", output "1 +\n2")
      assert.equal('"a\\nb"', output "[[a\nb]]")
      assert.equal("{ 1, 2 }", output "{ 1,\n2 }")
      assert.equal("4", output "x =\n4\nx")
      assert.equal("4", output "local x =\n4\nx")
      assert.equal("9", output "do x = 1; y\n= 9 end\ny")
    end)

    it("an empty one leaves it, unless more is pasted", function()
      local s = session()
      s:feed "function spec_f()"
      assert.matches("'end' expected near <eof>", (s:feed ""))
      s:feed "function spec_f()"
      local text, more = s:feed("", true)
      assert.is_true(more)
      assert.equal("", text)
      s:feed "return 5 end"
      assert.equal("5", (s:feed "spec_f()"))
      s:feed "if true then"
      s:leave()
      assert.equal("1", (s:feed "1"))
    end)
  end)

  describe("shows", function()
    it("tables with what is in them", function()
      for text, expected in pairs {
        ["{}"] = "{}", ["{ 1, 'a', true }"] = '{ 1, "a", true }',
        ["{ b = 1, a = { c = {} }, [10] = 2, ['x y'] = 3, 7 }"] =
          '{ 7, [10] = 2, a = { c = {} }, b = 1, ["x y"] = 3 }',
        ["{ pf.ones(2, 3) }"] = "{ tensor [2, 3] f32 }",
        ["{{{{{{ 1 }}}}}}"] = "{ { { { { { 1 entry } } } } } }",
      } do assert.equal(expected, output(text), text) end
    end)

    it("no end of a table that has none, and of a long one the beginning", function()
      assert.equal("{ self = { this goes round } }", output "t = {} t.self = t\nt")
      assert.equal("{ { 1 }, { 1 } }", output "t = { 1 }\n{ t, t }")
      local long = output "t = {} for i = 1, 1000 do t[i] = i end\nt"
      assert.matches("^{\n  1, 2, 3,.*\n  %.%.%. 960 more\n}$", long)
      for line in long:gmatch "[^\n]+" do assert.is_true(#line <= 80, line) end
      local deep = output "function spec_t(n) local t = {} if n == 0 then return 1 end\n"
        .. "for i = 1, 40 do t[i] = spec_t(n - 1) end return t end\nspec_t(3)"
      assert.is_true(select(2, deep:gsub("\n", "")) < 100)
    end)

    it("wide ones a field a line", function()
      assert.equal('{\n  a = "' .. ("x"):rep(50) .. '",\n  b = "' .. ("y"):rep(50) .. '"\n}',
        output "{ b = ('y'):rep(50), a = ('x'):rep(50) }")
    end)

    it("texts that a terminal would obey as what they are", function()
      assert.equal([["\x1B[31m\n\t\"\\\x00\xFF]] .. "\u{e9}" .. [[\u{9b}"]],
        output [["\27[31m\n\t\"\\\0\xFF\u{e9}\u{9b}"]])
      assert.matches('x" %.%.%. 3,000 bytes more$', output "('x'):rep(5000)")
      assert.equal(('"%s" ... 2 bytes more'):format("x" .. ("\u{e9}"):rep(999)),
        output "'x' .. ('\u{e9}'):rep(1000)")
    end)

    it("what is no number without a sign", function()
      assert.equal("nan  nan", output "0 / 0, -(0 / 0)")
      assert.equal("{ nan, { nan } }", output "{ 0 / 0, { -(0 / 0) } }")
    end)

    it("functions by where they are, or by their name", function()
      assert.equal("function (a, b, ...): input 1:1",
        output "function spec_f(a, b, ...) end\nspec_f")
      assert.equal("function pf.matmul (?pf.matmul says more)", output "pf.matmul")
      assert.equal("function string.rep (?string.rep says more)", output "string.rep")
    end)

    it("models as a tree, alike blocks once, and numbers that sum up", function()
      local text = output "nn.performer { vocab = 256, dim = 64, layers = 3, heads = 4 }"
      local count = pf.nn.performer { vocab = 256, dim = 64, layers = 3, heads = 4 }:count()
      local total = tonumber((text:match "%-%- ([%d,]+) parameters":gsub(",", "")))
      assert.equal(count, total)
      assert.matches("\n    1 to 3, each +%d", text)
      assert.matches("\n        qkv.weight +%[192, 64%] +12,288", text)
      assert.matches("projection +%[4, 64, 16%] +not trained", text)
      local embedding, blocks, norm = text:match
        "embedding.weight +%[256, 64%] +([%d,]+).-blocks +([%d,]+).*norm.weight +%[64%] +([%d,]+)$"
      local sum = 0
      for _, n in ipairs { embedding, blocks, norm } do sum = sum + n:gsub(",", "") end
      assert.equal(count, sum)
    end)

    it("tensors as they print, and pf in short", function()
      assert.equal(tostring(pf.ones(2, 3)), output "pf.ones(2, 3)")
      local overview = output "pf"
      assert.matches("^Performer ", overview)
      assert.matches("parts: .*pf.nn", overview)
      assert.matches("matmul", overview)
      for line in overview:gmatch "[^\n]+" do assert.is_true(#line <= 80, line) end
    end)

    it("what the engine gives as a table by its name", function()
      local file = support.folder() .. "/t.txt"
      support.write(file, ("some text\n"):rep(500))
      assert.equal("batch {\n  documents = tensor [2, 32] i32,\n  input = tensor [2, 32] i32,\n"
        .. "  mask = tensor [2, 32] i32,\n  rows = 2,\n  target = tensor [2, 32] i32,\n"
        .. "  tokens = 64\n}", output(("for _, batch in assert(pf.data.open { path = %q, "
        .. "length = 32 }):batches { size = 2, steps = 1 } do spec_b = batch end\nspec_b")
        :format(file)))
      os.remove(file)
    end)

    it("values whose text can't be had", function()
      assert.matches("can't be shown: .*no", output
        "setmetatable({}, { __tostring = function() error 'no' end })")
      assert.matches("^{ a = 1 }$", output
        "setmetatable({ a = 1 }, { __index = function() error 'no' end })")
    end)

    it("how long it took, where that was long", function()
      local now = 0
      local function clock() now = now + 0.08 return now end
      assert.equal("1", output("1", { clock = clock }))
      local function slow() now = now + 0.8 return now end
      assert.equal("1\n0.80 s", output("1", { clock = slow }))
      assert.equal("1\n\27[2m0.80 s\27[0m", output("1", { clock = slow, colour = true }))
    end)
  end)

  describe("tells what went wrong", function()
    it("in short, where the line is all that can be meant", function()
      for text, expected in pairs {
        ["error 'bad'"] = "error: bad", ["x = = 3"] = "error: unexpected symbol near '='",
        ["1 + * 2"] = "error: unexpected symbol near '*'",
        ["foo bar"] = "error: syntax error near 'bar'", ["error { 1 }"] = "error: { 1 }",
        ["for i = 1 do"] = "error: ',' expected near 'do'", ["error()"] = "error: nil",
        ["pf.ones(3):reshape(4)"] =
          "error: reshape: x is [3]; 3 elements don't fill [4], which has 4",
      } do assert.equal(expected, output(text), text) end
    end)

    it("with the calls that are the user's", function()
      local file = support.folder() .. "/f.lua"
      support.write(file, "function spec_g(n)\n  if n == 0 then error 'deep' end\n"
        .. "  local x = spec_g(n - 1)\n  return x\nend\n")
      local text = output(("dofile %q\nx = spec_g(2)"):format(file))
      assert.equal(("error: %s:2: deep\n  %s:2 in spec_g\n  %s:3 in spec_g\n  %s:3 in spec_g\n"
        .. "  input 2:1"):format(file, file, file, file), text)
      text = output(("dofile %q\nx = pf.nn.define"):format(file))
      assert.is_nil(text:find "traceback")
      os.remove(file)
    end)

    it("with the line of a chunk that has several", function()
      assert.equal("error: input 1:2: bad", output "do\nerror 'bad' end")
      assert.equal("error: input 1:2: unexpected symbol near ')'", output "do\n) end")
    end)

    it("and what a name may have been", function()
      assert.equal("error: attempt to index a nil value (global 'modle') (did you mean 'model'?)",
        output "model = 1\nmodle.x")
      assert.equal("error: attempt to call a nil value (global 'prnt') (did you mean 'print'?)",
        output "prnt(1)")
    end)

    it("and what is meant by another library's name, or another language's grammar", function()
      for text, hint in pairs {
        ["torch.randn(2)"] = "(global 'torch'); it is pf.randn",
        ["x = np.concatenate(1)"] = "(global 'np'); it is pf.concat",
        ["keras.linear"] = "(global 'keras'); it is pf.nn.linear",
        ["jnp.foo()"] = "(global 'jnp'); what there is of it is in pf: ?pf lists it",
        ["len(3)"] = "(global 'len'); it is #t, or t:size(1) of a tensor",
        ["f(3)"] = "attempt to call a nil value (global 'f')",
        ["import torch"] = "; pf and nn are there; local m = require 'm' loads a file m.lua",
        ["print 3 'a != b'"] = "; it is print(x), or x alone",
        ["def f(x):"] = "; it is function f(x) ... end", ["x += 1"] = "; it is x = x + 1",
        ["1 != 2"] = "; it is a ~= b",
        ["x[1:2]"] = "t[{ {1, 2}, 1 }], where {} is all of a dimension; positions count from 1",
        ["a @ b"] = "; it is a:matmul(b)", ["a ** 2"] = "; it is x ^ y",
        ["a ? 1 : 2"] = "; it is a and b or c", ["x is None"] = "; it is x == nil, or x ~= nil",
        ["x = lambda y: y + 1"] = "; it is function(x) return x end", ["x++"] = "; it is x = x + 1",
        ["# a comment"] = "; a comment begins with --", ["x = [1, 2]"] = "; a list is { 1, 2, 3 }",
        ["with pf.no_grad():"] = "local tape <close> = pf.tape() alone",
        ["x = 1 if y else 2"] = "; it is a and b or c",
        ["help(3)"] = "(global 'help'); a prompt says it: ?pf.matmul",
        ["'%d' % 3"] = '; it is ("%d"):format(x)', ["'loss ' + {}"] = "; texts are joined by ..",
        ["math.sqrt(pf.ones(1))"] = "; t:item() is the number of a tensor with one",
        ["unpack({})"] = "(global 'unpack'); it is table.unpack",
        ["table.getn({})"] = "(field 'getn'); it is #t",
        ["pf.ones(2):repeat(2)"] = "; it is t:tile(2, 1)",
        ["'a' .. pf.ones(2)"] = "; it is tostring(t), or t:item() of one number",
        ["for v in pf.ones(2) do end"] = "; it is for i = 1, #t do local row = t[i] ... end",
        ["f'{x}'"] = '(global \'f\'); it is ("%d"):format(x)',
        ["x = = '+='"] = "near '='",
      } do
        local told = output(text)
        assert.equal(hint, told:sub(-#hint), told)
      end
      assert.equal("there is no np.concatenate; it is pf.concat", output "?np.concatenate")
      assert.matches("^there is no torch.randn; it is pf.randn\npf.randn", output "?torch.randn")
    end)

    it("and that a method is called with a colon", function()
      local make = "t = { x = pf.ones(2, 3) } m = nn.linear { from = 2, to = 3 }\n"
      for text, call in pairs {
        ["t.x.shape"] = "t.x:shape()", ["m.children"] = "m:children()",
        ["t.x.sum()"] = "t.x:sum()", ["1 + m.parameters()"] = "m:parameters()",
        ["print(t.x.matmul(t.x))"] = "t.x:matmul()",
      } do
        local told = output(make .. text)
        assert.equal("colon: " .. call, told:sub(-#call - 7), told)
      end
      for _, text in ipairs { "t.x:shape()", "pf.sum", "t.x.shape(t.x)", "pf.sum()" } do
        assert.is_nil(output(make .. text):find "colon", text)
      end
    end)

    it("and that another language's values are names here", function()
      local told = "True is a name here, without a value; it is true"
      assert.equal(told, output "x = True")
      assert.equal("nil\nNone is a name here, without a value; it is nil", output "None")
      for _, text in ipairs { "None = 1\nNone", "x = { True = 1 }", "x = { 1 }\nx.True",
                              "'True'" } do
        assert.is_nil(output(text):find "a name here", text)
      end
    end)

    it("and keeps the session", function()
      assert.equal("5", output "x = 5\nerror 'bad'\npf.zeros(1 << 50, 1 << 50)\nx")
    end)

    it("but ends where it is asked to", function()
      for text, code in pairs { ["pf.exit(3)"] = 3, exit = 0, ["quit()"] = 0 } do
        local s = session()
        s:feed(text)
        assert.equal(code, s.exit and s.exit.code, text)
      end
      assert.equal("1", output "local quit = 1\nquit")
    end)
  end)

  describe("helps", function()
    it("with the words of the reference", function()
      local text = output "?pf.matmul"
      assert.matches("^pf.matmul%(a, b%)  %->  pf.Tensor\n  y = a b for matrices", text)
      assert.equal(text, output "pf.matmul?")
      assert.equal(text, output "? pf.matmul(x, y)")
      assert.matches("^Tensor:matmul%(b%)", output "t = pf.ones(2)\n?t:matmul")
      local block = output "?nn.block"
      assert.matches("^pf.nn.block%(", block)
      assert.matches("\n  heads +integer%. [^\n]+", block)
      assert.matches("default 10000%)", (block:gsub("%s+", " ")))
      assert.matches("\n  lr +number", output "?pf.optim.adamw")
    end)

    it("knows every function of the reference, and each option of a layer", function()
      local reference = require "performer.repl.reference"
      assert.is_true(#reference.get().order > 300)
      for _, name in ipairs(reference.get().order) do
        assert.equal(name .. "(", output("?" .. name):sub(1, #name + 1))
      end
      for _, layer in ipairs(pf.layers()) do
        local text = output("?nn." .. layer.type)
        for _, option in ipairs(layer.options) do
          assert.is_truthy(text:find("\n  " .. option.name .. " ", 1, true),
            layer.type .. " " .. option.name)
        end
      end
    end)

    it("says what the engine knows where the reference is missing", function()
      local folder = support.folder()
      local _, out = support.shell(([[cp -rL %s/lua %s/lua && mkdir %s/bin &&
        cp %s/bin/performer %s/bin/ && printf '%%s\n' '?pf.sum' '?pf.ones(2):sum { }' '?nn.linear' \
        '?pf.optim.adamw' '?pf.ones' '?pf.summ' '?pf.nothing' '?print' \
        'require("performer.repl.complete").find("nn.linear { fr", _G)[1]' |
        PF_HISTORY=off %s/bin/performer -i]]):format(support.build, folder, folder, support.build,
        folder, folder))
      for _, text in ipairs {
        "pf> pf.sum(x [, options])  ->  pf.Tensor\n  y = the sum of x",
        "\n  keep  boolean. keep the dimension with size 1\n",
        "pf> pf.nn.linear([options])\n", '"none"|"gelu"|',
        "pf> pf.optim.adamw(model [, options])\n",
        "pf> pf.ones: the file that says what it does is missing here: /", "did you mean pf.sum?",
        "pf> nothing is known of pf.nothing: the reference is missing here: /",
        "pf> print: a function of Lua's", 'pf> "from = "\n',
      } do assert.is_truthy(out:find(text, 1, true), text .. "\n" .. out) end
      support.remove(folder)
    end)

    it("lists what a part has, and what a value can", function()
      local text = output "?nn"
      for _, layer in ipairs(pf.layers()) do
        assert.is_truthy(text:find("pf.nn." .. layer.type .. " ", 1, true), layer.type)
      end
      for line in text:gmatch "[^\n]+" do assert.is_true(#line <= 80, line) end
      assert.matches("methods:\n.*Tape:backward", output "t = pf.tape()\nt:close()\n?t")
      assert.matches("Tensor:sum ", output "?Tensor")
      assert.equal(output "pf", output "?pf")
    end)

    it("says what may have been meant", function()
      assert.matches("did you mean pf.nn.performer%?", output "?nn.performr")
      assert.matches("did you mean pf.matmul%?\npf.matmul", output "?pf.matmull")
      assert.equal("there is no pf.cat; it is pf.concat", output "?pf.cat")
      assert.matches("it is t:reshape", output "t = pf.ones(2)\n?t:view")
      assert.matches("there are .*pf.softmax", output "?softmax")
      assert.matches("^nothing is called zzzzzzzz", output "?zzzzzzzz")
    end)

    it("with the comment above a function of the user's, and of Lua with its manual", function()
      local file = support.folder() .. "/f.lua"
      support.write(file, "-- not this\n\n-- Doubles.\n--- And no more.\nfunction spec_d(x)\n"
        .. "  return 2 * x\nend\n")
      assert.equal(("function (x): %s:5\n  Doubles.\n  And no more."):format(file),
        output(("dofile %q\n?spec_d"):format(file)))
      os.remove(file)
      assert.matches("manual.html#pdf%-print", output "?print")
      assert.matches("a word of Lua's", output "?while")
    end)

    it("in lines that are as wide as the rest, and no wider", function()
      local widest = { 0, 0 } -- of lines that begin with a name, and of those that go on
      for line in output "?nn.block":gmatch "[^\n]+" do
        local kind = line:find "^   " and 2 or 1
        if not line:find "|" then widest[kind] = math.max(widest[kind], #line) end -- one long word
      end
      assert.is_true(widest[1] <= 80 and widest[2] <= 80)
      assert.is_true(widest[2] > 72)
    end)

    it("alone says what there is, on 80 columns", function()
      local text = output "?"
      assert.equal(text, output "help")
      assert.equal(text, output "help()")
      assert.equal("7", output "help = 7\nhelp")
      assert.matches("Ctrl%-D", text)
      for line in text:gmatch "[^\n]+" do assert.is_true(#line <= 80, line) end
    end)
  end)

  describe("has commands:", function()
    it("time", function()
      local real = { clock = pf.clock }
      assert.matches("^2\n[%d.e-]+ [mu]?s$", output("%time 1 + 1", real))
      assert.matches("\n[%d.]+ [mu]?s, 4%.%d MB of tensors at most$",
        output("%time pf.zeros(1024, 1024):shape()", real))
      assert.equal("error: bad", output "%time error 'bad'")
      assert.matches("^median [%d.e-]+ [mu]?s, least .* of %d+ runs$", output("%timeit 1 + 1",
        real))
      assert.matches("^error: ", output "%timeit error 'bad'")
      for _, name in ipairs { "%time", "%timeit", "%time  " } do
        assert.matches("takes what it is to run: %%time", output(name))
      end
      assert.equal("error: unexpected symbol near '*'", output "%timeit 1 + *")
    end)

    it("who", function()
      assert.equal("nothing was made yet", output "%who")
      assert.equal("spec_a = 1\nspec_b = { 2 }", output "spec_b = { 2 } local spec_a = 1\n%who")
    end)

    it("and says so where there is none", function()
      assert.equal("there is no %tme (did you mean %time?); ? says what there is", output "%tme 1")
    end)
  end)

  describe("keeps what was typed", function()
    local function path(set, there)
      return history.path(function(name) return set[name] end,
                          function() return there ~= false end)
    end

    it("where the user's state is", function()
      assert.equal("/s/performer/history", path { XDG_STATE_HOME = "/s", HOME = "/h" })
      assert.equal("/h/.local/state/performer/history", path { HOME = "/h" })
      assert.is_nil(path({ HOME = "/h" }, false))
      assert.equal("/h/.local/state/performer/history", path { XDG_STATE_HOME = "s", HOME = "/h" })
      assert.equal("/f", path { PF_HISTORY = "/f", HOME = "/h" })
      assert.is_nil(path { PF_HISTORY = "off", HOME = "/h" })
      assert.is_nil(path {})
    end)

    it("a line each, whatever is in it", function()
      for _, entry in ipairs { "a", "a\nb", "a\\nb", "\\", "'\\n'\n\\\\", "\u{e9}" } do
        local line = history.line(entry)
        assert.is_nil(line:find "\n")
        assert.equal(entry, history.entry(line))
      end
    end)

    it("once, and not what begins with a blank", function()
      local kept, file = {}, {}
      local console = { remember = function(text) kept[#kept + 1] = text end,
                        append = function(_, text) file[#file + 1] = text end }
      local last
      for _, entry in ipairs { "a", "a", " secret", "b\nc", "a" } do
        last = history.keep(console, "/f", entry, last)
      end
      assert.same({ "a", "b\nc", "a" }, kept)
      assert.same({ "a\n", "b\\nc\n", "a\n" }, file)
    end)
  end)

  it("colours no text where none is asked for", function()
    for _, text in ipairs { "1", "error 'bad'", "%time 1", "x = = 3" } do
      assert.is_nil(output(text):find "\27")
    end
    assert.equal("\27[31merror: \27[0mbad", output("error 'bad'", { colour = true }))
  end)
end)
