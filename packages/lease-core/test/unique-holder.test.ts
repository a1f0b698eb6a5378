import os from 'node:os'
import { expect } from 'chai'
import { stub } from 'sinon'
import { ErrNotValid } from '#src/errors.ts'
import { MAX_NAME_BYTES, validateString } from '#src/lease.ts'
import { uniqueHolder } from '#src/unique-holder.ts'

describe('uniqueHolder: a name that nobody else has', () => {
  it('returns a valid name that says prefix, host and process', () => {
    const [host] = os.hostname().split('.')
    expect(uniqueHolder('billing')).to.match(new RegExp(`^billing-.+-${process.pid}-[0-9a-f]{16}$`))
    expect(uniqueHolder()).to.match(new RegExp(`-?${process.pid}-[0-9a-f]{16}$`))
    if (/^[\w-]{1,63}$/.test(host ?? '')) expect(uniqueHolder('billing')).to.include(`billing-${host}-${process.pid}-`)
    validateString(uniqueHolder())
    validateString(uniqueHolder('Ärger/1'))
  })

  it('returns another name at each call, as in processes of one id and threads of one process', () => {
    const names = new Set(Array.from({ length: 1_000 }, () => uniqueHolder('w')))
    expect(names.size).to.equal(1_000)
  })

  it('returns a valid name whatever the host is called', () => {
    for (const [host, part] of [
      ['web3.example.com', 'web3-'],
      ['Ann’s Mac.local', 'Ann-s-Mac-'],
      ['a$b#c', 'a-b-c-'],
      ['10.0.0.7', '10-'],
      ['', ''],
      ['x'.repeat(300), `${'x'.repeat(63)}-`],
    ] as const) {
      const hostname = stub(os, 'hostname').returns(host)
      try {
        const name = uniqueHolder('w')
        validateString(name)
        expect(name).to.match(new RegExp(`^w-${part}${process.pid}-[0-9a-f]{16}$`))
      } finally {
        hostname.restore()
      }
    }
  })

  it('leaves a name of at most 255 bytes, and refuses a prefix that is no name or too long', () => {
    const longest = 'p'.repeat(128)
    expect(Buffer.byteLength(uniqueHolder(longest))).to.be.at.most(MAX_NAME_BYTES)
    for (const prefix of ['', 'a b', 'web3.example', 'a#b', `${longest}p`, 'ä'.repeat(65), 5, null]) {
      expect(() => uniqueHolder(prefix as never)).to.throw(ErrNotValid, /^prefix must/)
    }
  })
})
