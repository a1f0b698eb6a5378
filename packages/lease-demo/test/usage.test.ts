import { expect } from 'chai'
import { parse } from '#src/usage.ts'

describe('the command line of the demo', () => {
  it('says how the demo is used', () => {
    const help = parse(['--help'])
    expect(help).to.have.property('exitCode', 0)
    expect(help)
      .to.have.property('text')
      .that.includes('Usage: npx -y pnpm@10 demo [--on postgres|redis|etcd|dynamodb] [--unguarded]\n')
  })

  for (const args of [
    ['--ungarded'],
    ['now'],
    ['--unguarded=yes'],
    ['--on', 'mysql'],
    ['--on=toString'],
    ['--on'],
    ['--draw='],
    ['--draw', 'd', '--unguarded'],
  ]) {
    it(`answers '${args.join(' ')}' with how it is used, and exit code 2`, () => {
      const answer = parse(args)
      expect(answer).to.have.property('exitCode', 2)
      expect(answer)
        .to.have.property('text')
        .that.includes('Usage:')
        .and.matches(/ungarded|now|unguarded|mysql|toString|--on|--draw/)
    })
  }
})
