/** Tools to test what is built on leases, and the library itself: time that stands still, and things that go wrong. */
export { infoOf, type InfoParts } from './info-of.ts'
export { TestClock, type TestClockOptions } from './test-clock.ts'
export { track, type Tracked } from './track.ts'
