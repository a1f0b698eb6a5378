import { stripVTControlCharacters } from 'node:util'
import { expect } from 'chai'
import { type Output, Timeline } from '#src/timeline.ts'
import { TokenScale } from '#src/tokens.ts'
import { COMMAND, parse } from '#src/usage.ts'
import { wrap } from '#src/wrap.ts'

/** An output that keeps what is written. */
class Paper implements Output {
  readonly isTTY: boolean
  readonly columns?: number
  text = ''

  constructor({ isTTY = false, columns }: { isTTY?: boolean; columns?: number } = {}) {
    this.isTTY = isTTY
    if (columns !== undefined) this.columns = columns
  }

  write(text: string): void {
    this.text += text
  }
}

const long =
  'its stale write is REFUSED (ErrNotHeld): "cyan" does not hold lease "alice" with fencing token #1,821,886, ' +
  'because the leases of a worker that was frozen lapse, and another worker has taken them over since then'

describe('the timeline of the demo', () => {
  for (const columns of [80, 60, 40]) {
    it(`breaks no word and no line is too long at ${columns} columns`, () => {
      const paper = new Paper({ columns })
      const timeline = new Timeline(paper, { color: false })
      timeline.title(long)
      timeline.note(long)
      timeline.act(long)
      timeline.did('magenta', long, 'bad')
      timeline.entry('  ✗ ', long, 'bad')
      timeline.waitFor(long)
      timeline.verdict(long, 'good')
      const lines = paper.text.split('\n')
      for (const line of lines) expect(line.length, line).to.be.at.most(columns)
      // Every word of every one of the seven texts is there whole, in its order.
      const words = paper.text.replaceAll(/^ +\d+\.\d\d s( {2}magenta)?|[✗…]/gm, '').split(/\s+/)
      const all = Array.from({ length: 7 }, () => long.split(' ')).flat()
      expect(words.filter((word) => word !== '')).to.deep.equal(all)
    })
  }

  it('lays lines out for 80 columns where the width is not known', () => {
    const paper = new Paper()
    new Timeline(paper, { color: false }).note(long)
    const [first = ''] = paper.text.split('\n')
    expect(first.length).to.be.within(60, 80)
  })

  it('keeps colours off the width of a line', () => {
    const lines = [false, true].map((color) => {
      const paper = new Paper({ columns: 60 })
      new Timeline(paper, { color }).entry('  ✗ ', long, 'bad')
      return stripVTControlCharacters(paper.text)
    })
    expect(lines[1]).to.equal(lines[0])
  })

  it('writes one line for each wait where there is no terminal', () => {
    const paper = new Paper()
    const timeline = new Timeline(paper, { color: false })
    timeline.waitFor('downloading a server')
    timeline.waitFor('starting it')
    timeline.arrived()
    expect(paper.text).to.equal('… downloading a server\n… starting it\n')
  })

  it('keeps the wait below everything else on a terminal, and removes it in the end', () => {
    const paper = new Paper({ isTTY: true, columns: 60 })
    const timeline = new Timeline(paper, { color: false })
    timeline.waitFor('starting it')
    timeline.note('a note')
    timeline.arrived()
    timeline.note('the end')
    const clear = '\r\u001B[2K'
    expect(paper.text.split(clear)).to.deep.equal(['', '… starting it', 'a note\n', '… starting it', 'the end\n'])
  })
})

describe('short fencing tokens', () => {
  const scale = new TokenScale(1_795_976_426_307_844n)

  it('keep the order and the differences', () => {
    const tokens = [1_795_976_426_307_845n, 1_795_976_428_307_845n, 1_795_976_426_307_843n]
    expect(tokens.map((token) => scale.show(token))).to.deep.equal(['#1', '#2,000,001', '#-1'])
  })

  it('replace the long ones in a message', () => {
    const token = 1_795_976_426_307_900n
    const message = `does not hold lease "alice" with fencing token ${token}`
    expect(scale.showIn(message, [token])).to.equal('does not hold lease "alice" with fencing token #56')
  })
})

describe('wrapped text', () => {
  it('does not break beside an equals sign', () => {
    expect(wrap('about to write alice = 45', 22)).to.deep.equal(['about to write', 'alice = 45'])
  })

  it('gives a word that is too long a line of its own', () => {
    expect(wrap('a considerable word', 5)).to.deep.equal(['a', 'considerable', 'word'])
  })
})

describe('the help of the demo', () => {
  it('fits in 80 columns and names a command that a newcomer has', () => {
    const help = parse(['--help'])
    if (!('text' in help)) throw new Error('no help')
    for (const line of help.text.split('\n')) expect(line.length, line).to.be.at.most(80)
    expect(COMMAND).to.match(/^npx -y pnpm@\d+ demo$/)
    expect(help.text).to.include(COMMAND)
  })
})
