import { expect } from 'chai'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Fault, faultsOf, PACKAGES, readFaults, StaleFault, withFault } from '#src/faults.ts'
import { root } from '#src/test-files.ts'

const sources = new Map<string, string>()

function textOf(file: string): string {
  const text = sources.get(file) ?? readFileSync(join(root, file), 'utf8')
  sources.set(file, text)
  return text
}

/** Of a page, or of the comments of a source: however its lines are broken. */
function inOneLine(text: string): string {
  return text.replaceAll(/\n\s*\*? ?/g, ' ').replaceAll(/\s+/g, ' ')
}

describe('the lists of faults', () => {
  for (const name of PACKAGES) {
    describe(`of ${name}`, () => {
      const faults = faultsOf(name)

      it('has faults, and each applies to the sources of its package', () => {
        expect(faults).not.to.deep.equal([])
        const stale = faults.flatMap((fault) => {
          try {
            const changed = withFault(fault, textOf)
            expect([...changed.keys()].every((file) => file.startsWith(`packages/lease-${name}/src/`))).to.equal(true)
            return []
          } catch (error) {
            return [`${fault.name}: ${(error as Error).message}`]
          }
        })
        expect(stale).to.deep.equal([])
      })

      it('quotes sentences that stand where it says', () => {
        const missing = faults.filter(({ page, sentence }) => !inOneLine(textOf(page)).includes(inOneLine(sentence)))
        expect([...new Set(missing.map(({ page, sentence }) => `${page}: ${sentence}`))]).to.deep.equal([])
      })

      it('names test files that exist', () => {
        const files = new Set(faults.flatMap(({ tests }) => tests))
        expect([...files].filter((file) => !file.endsWith('.test.ts') || !existsSync(join(root, file)))).to.deep.equal(
          [],
        )
      })
    })
  }
})

const list = `# Faults

## It adds.
[guarantees.md](../../../docs/guarantees.md#promises)
- \`a.test.ts\`
- \`b.test.ts\`

### it subtracts
\`\`\`diff
@@ sum.ts
 function sum(a, b) {
-  return a + b
+  return a - b
 }
\`\`\`

### it forgets
Without effect: nobody asks.
- \`c.test.ts\`
\`\`\`diff
@@ sum.ts
-  log()
@@ log.ts
-log
+
\`\`\`
`
const source = 'function sum(a, b) {\n  return a + b\n}\nfunction first(a) {\n  log()\n  return a\n}\n'

function read(text = list): readonly Fault[] {
  return readFaults('core', 'packages/lease-suite/mutants/core.md', text)
}

function rejected(text: string): string {
  try {
    read(text)
  } catch (error) {
    return (error as Error).message
  }
  throw new Error('it was read')
}

describe('a list of faults', () => {
  it('gives each fault its sentence, its tests or those of its section, and its changes', () => {
    const [first, second] = read()
    expect(first).to.deep.equal({
      package: 'core',
      name: 'it subtracts',
      sentence: 'It adds.',
      page: 'docs/guarantees.md',
      tests: ['a.test.ts', 'b.test.ts'],
      harmless: undefined,
      edits: [
        {
          file: 'sum.ts',
          from: 'function sum(a, b) {\n  return a + b\n}',
          to: 'function sum(a, b) {\n  return a - b\n}',
        },
      ],
    })
    expect(second?.tests).to.deep.equal(['c.test.ts'])
    expect(second?.harmless).to.equal('nobody asks.')
    expect(second?.edits).to.deep.equal([
      { file: 'sum.ts', from: '  log()', to: undefined },
      { file: 'log.ts', from: 'log', to: '' },
    ])
  })

  it('is refused, with what is wrong, when a fault has no page, no test, no change, or the name of another', () => {
    expect(rejected(list.replace(/^\[guarantees.*\n/m, ''))).to.contain(
      'does not say where this sentence stands: It adds.',
    )
    expect(rejected(list.replace(/- `a.*\n- `b.*\n/, ''))).to.contain('does not say which tests notice: it subtracts')
    expect(
      rejected(list.replaceAll(/^[-+ ].*return.*\n/gm, '').replace('@@ sum.ts\n function', 'function')),
    ).to.contain('does not say what to change: it subtracts')
    expect(rejected(list.replace('it forgets', 'it subtracts'))).to.contain('two faults called it subtracts')
  })

  it('puts a fault into the sources, or says that its lines are not there once', () => {
    const [first, second] = read()
    if (first === undefined || second === undefined) throw new Error('the list has two faults')
    const log = 'begin\nlog\nend\n'
    expect(withFault(first, () => source).get('sum.ts')).to.equal(source.replace('a + b', 'a - b'))
    expect(Object.fromEntries(withFault(second, (file) => (file === 'log.ts' ? log : source)))).to.deep.equal({
      'sum.ts': source.replace('  log()\n', ''),
      'log.ts': 'begin\n\nend\n',
    })
    expect(() => withFault(first, () => source.replace('a + b', 'b + a'))).to.throw(StaleFault, 'found 0 times')
    expect(() => withFault(first, () => source + source)).to.throw(StaleFault, 'found 2 times')
  })
})
