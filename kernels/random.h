// Counter-based random bits: Philox4x32-10 (Salmon et al., SC 2011), and dropout from them.
//
// Element i of step s under key k takes word i % 4 of the counter (i / 4, i / 2^34, s, s / 2^32): the same bits on
// every processor, which backward draws again instead of storing them. Specification: xpdense/ops/philox.py.
// Bytes moved per element: reads x, writes y (2 items).
XPD_FN void xpd_philox(unsigned c[4], unsigned k0, unsigned k1) {
    for (int round = 0; round < 10; ++round) {
        unsigned long long p0 = c[0] * 0xD2511F53ull, p1 = c[2] * 0xCD9E8D57ull;
        c[0] = (unsigned)(p1 >> 32) ^ c[1] ^ k0;
        c[1] = (unsigned)p1;
        c[2] = (unsigned)(p0 >> 32) ^ c[3] ^ k1;
        c[3] = (unsigned)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

XPD_FN void xpd_random_words(unsigned long long block, unsigned long long step, unsigned k0, unsigned k1,
                             unsigned c[4]) {
    c[0] = (unsigned)block;
    c[1] = (unsigned)(block >> 32);
    c[2] = (unsigned)step;
    c[3] = (unsigned)(step >> 32);
    xpd_philox(c, k0, k1);
}

// One element of dropout: keep is 1 / (1 - rate), limit the ceiling of rate 2^32. NaN stays NaN.
template <typename T> XPD_FN T xpd_dropout(T x, unsigned word, unsigned long long limit, T keep) {
    return word >= limit ? x * keep : x * T(0);
}
