/**
 * A check of words: pages, comments, test titles and texts of errors are plain English. The list is short: words that made readers stop,
 * and what to write instead. Names in code are not checked, and nothing between backticks in comments and pages.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { root } from './test-files.ts'

/** A word that is not plain, and what to write instead. */
export interface Rule {
  readonly words: RegExp
  readonly instead: string
}

export const RULES: readonly Rule[] = [
  { words: /\bwhoever\b/gi, instead: 'the noun, or "anyone who"' },
  { words: /\b(?<!no matter )who is\b/gi, instead: 'the noun: the waiter, the holder, the leader' },
  { words: /\bof which\b/gi, instead: 'two sentences, or "whose"' },
  { words: /\b(one's|his|her) own\b/gi, instead: '"its own", or "your own"' },
  { words: /\b(he|him|his|himself)\b/gi, instead: '"it": a holder, a client or a process is no person' },
  {
    words: /\b(is|are|was|were|be|been|being|gets?|got|and|not|has|have|to who) told\b/gi,
    instead: '"notified" for who gets news, "reported" for the news',
  },
  { words: /\b(is|are|was|were|be|been) taken for\b/gi, instead: '"counts as"' },
  { words: /\bdear(er)?\b/gi, instead: '"expensive", "costs more"' },
  { words: /\bmeanwhile(?=[.)]|$)/gi, instead: '"in the meantime", or say during what' },
  { words: /\bin line\b/gi, instead: '"in the queue"' },
  { words: /\bat rest\b/gi, instead: '"idle"' },
  { words: /\b(heeds?|heeded|lest|hence|thus|whereby|thereof|hereby|upon)\b/gi, instead: 'a common word' },
  { words: /(?<!\[)\bdecisions? \d+/gi, instead: 'a link to the page of the decision, or a word' },
]

export interface Finding {
  readonly file: string
  readonly line: number
  readonly words: string
  readonly instead: string
}

/** What is not plain in a file of this workspace. */
export function findingsIn(file: string, text: string): Finding[] {
  const prose = file.endsWith('.md') ? proseOfPage(text) : proseOfCode(text)
  return RULES.flatMap(({ words, instead }) =>
    Array.from(prose.matchAll(acrossLines(words)), (match) => {
      const line = prose.slice(0, match.index).split('\n').length
      return { file, line, words: match[0].replaceAll(/[\s*/]+/g, ' '), instead }
    }),
  )
}

/** The words of a rule may stand on two lines, of a comment as well. */
function acrossLines({ source, flags }: RegExp): RegExp {
  return new RegExp(source.replaceAll(' ', String.raw`(?:\s|\*|//)+`), flags)
}

/** What is not plain in the pages, sources and tests of the workspace. */
export function findings(): Finding[] {
  return files('').flatMap((file) => findingsIn(file, readFileSync(join(root, file), 'utf8')))
}

/** What others have written, or what quotes the words. */
const LEFT_OUT = /(^|\/)(CHANGELOG|CODE_OF_CONDUCT)\.md$|^packages\/lease-suite\/(src\/words|test\/words\.test)\.ts$/
const FOLDERS = /^(?!node_modules$|dist$|coverage$|generated$|\.)/

function files(folder: string): string[] {
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = folder === '' ? entry.name : `${folder}/${entry.name}`
    if (entry.isDirectory()) return FOLDERS.test(entry.name) ? files(path) : []
    return /\.(md|ts|mjs)$/.test(path) && !LEFT_OUT.test(path) ? [path] : []
  })
}

/** The text of a page without its code. Lines keep their numbers. */
function proseOfPage(text: string): string {
  return text.replaceAll(/^( *)```.*?^\1```|`[^`\n]+`|\]\([^)\n]*\)/gms, blank)
}

/** The comments and the texts of a source; a text is what has a blank in it. Lines keep their numbers. */
function proseOfCode(text: string): string {
  let prose = ''
  let end = 0
  for (const match of text.matchAll(
    /(\/\*.*?\*\/|(?<=^|[\s;,{(])\/\/[^\n]*)|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`/gs,
  )) {
    const [whole, comment] = match
    prose += blank(text.slice(end, match.index))
    if (comment !== undefined) prose += whole.replaceAll(/`[^`\n]+`/g, blank)
    else prose += whole.includes(' ') ? whole.replaceAll(/\$\{[^}]*\}/g, blank) : blank(whole)
    end = match.index + whole.length
  }
  return prose
}

function blank(text: string): string {
  return text.replaceAll(/[^\n]/g, ' ')
}
