-- highlight.lua - code with its comments, texts, numbers and words of the language marked, for Lua,
-- C, C++ and shells. What it does not know stays as it is.

local function words(text)
  local set = {}
  for word in text:gmatch "%S+" do set[word] = true end
  return set
end

local LUA = words [[and break do else elseif end false for function goto if in local nil not or
  repeat return then true until while]]
local C = words [[auto bool break case char class const const_cast continue default delete do
  double else enum extern false float for goto if inline int int32_t int64_t long namespace new NULL
  nullptr private public return short signed sizeof size_t static static_cast struct switch template
  this throw true try typedef uint32_t uint64_t uint8_t union unsigned using virtual void volatile
  while]]
local SH = words [[case do done elif else esac export fi for function if in then while]]

-- The rules of a language, tried in turn: { pattern at the place, class }. A class of false: the
-- text stays plain; of a table: it is a word of the language, or plain.
local STRINGS = { { '^"[^"\\\n]*"', "s" }, { '^"[^\n]-[^\\]"', "s" }, { "^'[^'\\\n]*'", "s" },
                  { "^'[^\n]-[^\\]'", "s" } }
local function language(rules, set)
  for _, rule in ipairs(STRINGS) do rules[#rules + 1] = rule end
  rules[#rules + 1] = { "^%d[%w.]*", "n" }
  rules[#rules + 1] = { "^[%a_][%w_]*", set }
  return rules
end

local RULES = {
  lua = language({ { "^%-%-%[%[.-%]%]", "c" }, { "^%-%-[^\n]*", "c" }, { "^%[%[.-%]%]", "s" } },
                 LUA),
  c = language({ { "^/%*.-%*/", "c" }, { "^//[^\n]*", "c" }, { "^#%s*%a+", "k" } }, C),
  sh = language({ { "^#[^\n]*", "c" }, { "^%-%-?[%w-]+", false } }, SH),
}
RULES.cpp, RULES.bash, RULES.cmake = RULES.c, RULES.sh, RULES.sh

--- `code` as HTML by `escape`.
return function(code, name, escape)
  local rules, parts, at = RULES[name], {}, 1
  if not rules then return escape(code) end
  while at <= #code do
    local piece, class
    for _, rule in ipairs(rules) do
      piece = code:match(rule[1], at)
      class = rule[2]
      if piece then break end
    end
    -- A mark within a word (that of a comment in a URL, say) begins nothing.
    piece = piece or code:match("^%s+", at) or code:sub(at, at)
    if type(class) == "table" then class = class[piece] and "k" end
    local text = escape(piece)
    parts[#parts + 1] = class and ('<span class="%s">%s</span>'):format(class, text) or text
    at = at + #piece
  end
  return table.concat(parts)
end
